/* Runs the model it is linked with and one that it loads at run time, then the first one again. */
#define _GNU_SOURCE
#include "effc.h"

#include <dlfcn.h>
#include <stdio.h>

typedef int opener(const char *, int, effc_model **);
typedef int runner(effc_model *, const int64_t *, const void *const *, void *const *);

static float x[2 * 3 * 12 * 12], y[2 * 6];

static int show(effc_model *model, runner *run, int features) {
  const int64_t symbols[] = {2};
  if (run(model, symbols, (const void *[]){x}, (void *[]){y})) return 1;
  for (int i = 0; i < 2 * features; i++) printf("%.9g ", y[i]);
  printf("\n");
  return 0;
}

int main(int count, char **arguments) {
  char path[2][4096], library[4096];
  effc_model *first, *second;
  opener *open_other;
  runner *run_other;
  if (count != 3) return 1;
  for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = 0.5f;
  for (int i = 0; i < 2; i++) snprintf(path[i], 4096, "%s/weights.safetensors", arguments[i + 1]);
  if (effc_open(path[0], 2, &first)) return 2;
  snprintf(library, sizeof library, "%s/model.so", arguments[2]);
  void *other = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!other) return 3;
  *(void **)&open_other = dlsym(other, "effc_open");
  *(void **)&run_other = dlsym(other, "effc_run");
  if (open_other(path[1], 2, &second)) return 4;
  return show(first, effc_run, 5) || show(second, run_other, 6) || show(first, effc_run, 5);
}
