/* Asks for more working memory than there is, then for little. */
#include "effc.h"

#include <stdio.h>

static float x[4], y[2];

int main(int count, char **arguments) {
  effc_model *model;
  const int64_t most = effc_symbol_info(0)->maximum, one = 1;
  const void *inputs[] = {x};
  void *outputs[] = {y};
  if (count != 2 || effc_open(arguments[1], 2, &model)) return 1;
  for (int i = 0; i < 2; i++) {
    puts(effc_run(model, &most, inputs, outputs) ? effc_message() : "ran");
    puts(effc_run(model, &one, inputs, outputs) ? effc_message() : "ran");
  }
  effc_close(model);
  return 0;
}
