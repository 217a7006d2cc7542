/* The C interface of a model compiled by effc. No other library is needed.
 *
 *   effc_model *model;
 *   if (effc_open("weights.safetensors", 0, &model)) { puts(effc_message()); return 1; }
 *   const void *inputs[] = {pixels};
 *   void *outputs[] = {logits};
 *   if (effc_run(model, NULL, inputs, outputs)) { puts(effc_message()); return 1; }
 *   effc_close(model);
 *
 * Functions that can fail return 0 on success; effc_message() then says what went wrong in the
 * calling thread. Tensors are dense and row-major. A model may be used from several threads; runs
 * of one model follow each other. The caller's rounding mode, treatment of denormals and signals
 * stay as they are and change no result. A process that forks must open its models after that.
 */
#ifndef EFFC_H
#define EFFC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EFFC_ABI_VERSION 1

typedef struct effc_model effc_model;

/* One input or output. `dims` gives each dimension's size, or -1 - i where it is the i-th symbol or
 * another expression (ask effc_output_shape then). */
typedef struct {
  const char *name;
  const char *dtype;
  int rank;
  const int64_t *dims;
} effc_tensor;

/* A symbolic dimension and its inclusive range. */
typedef struct {
  const char *name;
  int64_t minimum;
  int64_t maximum;
} effc_symbol;

/* Load the weights and start the threads. `threads` <= 0 takes the number the model was built for,
 * or as many as the process has processors, if fewer. Waiting threads spin for microseconds, then
 * let others run, then sleep: an idle model takes no time of any processor. */
int effc_open(const char *weights, int threads, effc_model **model);

/* Run the model. `symbols` holds the value of each symbolic dimension, in order (NULL if none). */
int effc_run(effc_model *model, const int64_t *symbols, const void *const *inputs,
             void *const *outputs);

/* As effc_run, and writes the seconds spent in each step to `seconds[effc_step_count()]`. */
int effc_run_profiled(effc_model *model, const int64_t *symbols, const void *const *inputs,
                      void *const *outputs, double *seconds);

void effc_close(effc_model *model);

const char *effc_message(void);
int effc_abi_version(void);

int effc_input_count(void);
int effc_output_count(void);
int effc_symbol_count(void);
int effc_step_count(void);
const effc_tensor *effc_input(int index);
const effc_tensor *effc_output(int index);
const effc_symbol *effc_symbol_info(int index);
const char *effc_step_name(int index);

/* Sizes of an output for given symbols; `shape` has room for its rank. */
int effc_output_shape(int index, const int64_t *symbols, int64_t *shape);

/* Bytes of working memory the last run needed, and of weights unpacked from the file (not of the file). */
size_t effc_memory(effc_model *model);

#ifdef __cplusplus
}
#endif
#endif
