/* Makes one wrong call after the other and prints what the model says; it must never crash. */
#include "effc.h"

#include <stdio.h>
#include <stdlib.h>

static float x[64 * 3 * 12 * 12], y[64 * 6];
static const void *inputs[] = {x};
static void *outputs[] = {y};

static void report(const char *what, int failed) {
  printf("%s: %d %s\n", what, failed, failed ? effc_message() : "");
}

int main(int count, char **arguments) {
  effc_model *model;
  int64_t symbols[] = {2}, shape[4];
  if (count != 2) return 1;
  report("message", effc_message() == NULL);
  report("no weights", effc_open(NULL, 0, &model));
  report("no place", effc_open(arguments[1], 0, NULL));
  report("missing file", effc_open("none/weights", 0, &model));
  report("too many threads", effc_open(arguments[1], 257, &model));
  printf("model %d\n", model != NULL);
  report("open", effc_open(arguments[1], -1, &model));
  report("run", effc_run(model, symbols, inputs, outputs));
  report("no model", effc_run(NULL, symbols, inputs, outputs));
  report("no inputs", effc_run(model, symbols, NULL, outputs));
  report("no outputs", effc_run(model, symbols, inputs, NULL));
  report("no symbols", effc_run(model, NULL, inputs, outputs));
  const int64_t wrong[] = {0, -1, 65, INT64_MIN, INT64_MAX};
  for (int i = 0; i < 5; i++) report("size", effc_run(model, &wrong[i], inputs, outputs));
  report("run", effc_run(model, symbols, inputs, outputs));
  report("shape", effc_output_shape(0, symbols, shape));
  printf("%d %d\n", (int)shape[0], (int)shape[1]);
  report("shape of nothing", effc_output_shape(1, symbols, shape));
  report("shape of less", effc_output_shape(-1, symbols, shape));
  report("shape of no size", effc_output_shape(0, NULL, shape));
  report("shape of wrong size", effc_output_shape(0, &wrong[2], shape));
  printf("%s %s %s\n", effc_input(0)->name, effc_output(0)->dtype, effc_symbol_info(0)->name);
  printf("%d %d %d\n", effc_input(0)->rank, (int)effc_input(0)->dims[0], (int)effc_input(0)->dims[3]);
  printf("%d %d\n", (int)effc_symbol_info(0)->minimum, (int)effc_symbol_info(0)->maximum);
  printf("%d%d%d%d\n", effc_input(1) == NULL, effc_output(-1) == NULL, effc_symbol_info(1) == NULL,
         effc_step_name(effc_step_count()) == NULL);
  printf("memory %d %d\n", effc_memory(model) > 0, effc_memory(NULL) > 0);
  effc_close(NULL);
  effc_close(model);
  return 0;
}
