/* Runs a compiled model from C: numbers on standard input, numbers on standard output.
 *
 *   effc compile MODEL -o out
 *   cc -Iout examples/c/main.c out/model.so -Wl,-rpath,$PWD/out -o main
 *   ./main out/weights.safetensors [SIZE...] < numbers.txt
 *
 * It takes models with one float32 input and one float32 output; SIZE is the value of each symbolic
 * dimension, such as the batch size, in the order of effc_symbol_info.
 */
#include "effc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char *message) {
  fprintf(stderr, "%s\n", message);
  return 1;
}

int main(int count, char **arguments) {
  int64_t symbols[16] = {0}, shape[16];
  if (count < 2) return fail("usage: main WEIGHTS [SIZE...] < numbers");
  if (effc_symbol_count() != count - 2 || count > 18) return fail("give one SIZE per symbol");
  for (int i = 2; i < count; i++) symbols[i - 2] = atoll(arguments[i]);

  const effc_tensor *input = effc_input(0), *output = effc_output(0);
  if (!input || strcmp(input->dtype, "float32") || effc_input_count() != 1 ||
      !output || strcmp(output->dtype, "float32") || output->rank > 16)
    return fail("this program is for models with one float32 input and output");

  effc_model *model;
  if (effc_open(arguments[1], 0, &model)) return fail(effc_message());

  size_t inputs = 1, outputs = 1;
  for (int i = 0; i < input->rank; i++) /* below zero: -1 - the number of a symbol */
    inputs *= input->dims[i] >= 0 ? input->dims[i] : symbols[-1 - input->dims[i]];
  if (effc_output_shape(0, symbols, shape)) return fail(effc_message());
  for (int i = 0; i < output->rank; i++) outputs *= shape[i];

  float *x = malloc(inputs * sizeof *x), *y = malloc(outputs * sizeof *y);
  for (size_t i = 0; x && i < inputs; i++)
    if (scanf("%f", &x[i]) != 1) return fail("too few numbers");
  if (!x || !y) return fail("out of memory");

  if (effc_run(model, symbols, (const void *[]){x}, (void *[]){y})) return fail(effc_message());
  for (size_t i = 0; i < outputs; i++) printf("%.9g\n", y[i]);
  effc_close(model);
  free(x);
  free(y);
  return 0;
}
