/* Runs a model at sizes for which 64 bits hold neither elements nor bytes. */
#include "effc.h"

#include <stdio.h>

int main(int count, char **arguments) {
  effc_model *model;
  float x[4] = {0}, y[2];
  const void *inputs[] = {x};
  void *outputs[] = {y};
  const int64_t most = effc_symbol_info(0)->maximum, one = 1;
  int64_t shape[2];
  if (count != 2 || effc_open(arguments[1], 2, &model)) return 1;
  for (int64_t rows = most; rows > INT64_C(1) << 40; rows /= 3)
    puts(effc_run(model, &rows, inputs, outputs) ? effc_message() : "ran");
  puts(effc_run(model, &one, inputs, outputs) ? effc_message() : "ran");
  puts(effc_output_shape(0, &most, shape) ? effc_message() : "shaped");
  effc_close(model);
  return 0;
}
