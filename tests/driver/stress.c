/* Opens, runs from several callers, profiles and closes a model with 1 to 16 threads; every output
 * must equal that of the first run, which one thread did. With RACE or OVERFLOW defined it makes that mistake itself, to show that the
 * sanitizer sees it.
 */
#include "effc.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ROUNDS = 16, CALLERS = 3, RUNS = 6, SIZES = 3 };

static effc_model *model;
static float *inputs[SIZES], *expected[SIZES];
static int wrong[CALLERS];
static int64_t input_count[SIZES], output_count[SIZES];
int shared;

static void sizes_of(int which, int64_t *symbols) {
  for (int i = 0; i < effc_symbol_count(); i++) symbols[i] = effc_symbol_info(i)->minimum + 2 * which;
}

/* Memory that ends where a page begins that nobody may touch. */
static void *guarded(size_t nbytes) {
  size_t page = 4096, room = (nbytes + page - 1) / page * page;
  uint8_t *start = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED || mprotect(start + room, page, PROT_NONE)) abort();
  return start + room - nbytes;
}

static void prepare(int which) {
  int64_t symbols[8], shape[8];
  sizes_of(which, symbols);
  const effc_tensor *input = effc_input(0);
  input_count[which] = output_count[which] = 1;
  for (int i = 0; i < input->rank; i++)
    input_count[which] *= input->dims[i] >= 0 ? input->dims[i] : symbols[-1 - input->dims[i]];
  effc_output_shape(0, symbols, shape);
  for (int i = 0; i < effc_output(0)->rank; i++) output_count[which] *= shape[i];
  inputs[which] = guarded(input_count[which] * sizeof(float));
  expected[which] = guarded(output_count[which] * sizeof(float));
  for (int64_t i = 0; i < input_count[which]; i++) inputs[which][i] = (float)(i * 37 % 101) / 50 - 1;
}

static int run(int which, float *output, double *seconds) {
  int64_t symbols[8];
  sizes_of(which, symbols);
  const void *given[] = {inputs[which]};
  void *taken[] = {output};
  return seconds ? effc_run_profiled(model, symbols, given, taken, seconds)
                 : effc_run(model, symbols, given, taken);
}

static void *call(void *argument) {
  int caller = *(int *)argument;
  double *seconds = malloc(effc_step_count() * sizeof *seconds);
  for (int i = 0; i < RUNS; i++) {
    int which = (caller + i) % SIZES;
    size_t nbytes = output_count[which] * sizeof(float);
    float *output = malloc(nbytes);
    int64_t beyond[8];
    for (int k = 0; k < 8; k++) beyond[k] = -1;
    wrong[caller] += run(which, output, (caller + i) % 4 ? NULL : seconds);
    wrong[caller] += memcmp(output, expected[which], nbytes) != 0;
    wrong[caller] += !effc_run(model, beyond, (const void *[]){NULL}, (void *[]){NULL});
    wrong[caller] += !strstr(effc_message(), "-1") || !effc_memory(model);
#ifdef RACE
    shared++;
#endif
#ifdef OVERFLOW
    shared += (int)output[output_count[which]];
#endif
    free(output);
  }
  free(seconds);
  return NULL;
}

int main(int count, char **arguments) {
  int failures = 0, numbers[CALLERS];
  if (count != 2) return 1;
  for (int which = 0; which < SIZES; which++) prepare(which);
  if (effc_open(arguments[1], 1, &model)) return puts(effc_message());
  for (int which = 0; which < SIZES; which++) failures += run(which, expected[which], NULL);
  effc_close(model);
  for (int round = 0; round < ROUNDS; round++) {
    pthread_t callers[CALLERS];
    if (effc_open(arguments[1], 1 + round, &model)) return puts(effc_message());
    for (int i = 0; i < CALLERS; i++) {
      numbers[i] = i;
      pthread_create(&callers[i], NULL, call, &numbers[i]);
    }
    for (int i = 0; i < CALLERS; i++) {
      pthread_join(callers[i], NULL);
      failures += wrong[i];
    }
    effc_close(model);
    failures += effc_open("none", 2, &model) != 1;
  }
  printf("%d failures\n", failures);
  return failures != 0;
}
