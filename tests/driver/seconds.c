/* Prints the processor time that runs take with a number of threads, and that waiting takes. */
#define _GNU_SOURCE
#include "effc.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { RUNS = 200 };
static float x[3 * 12 * 12], y[5];

static double used(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int count, char **arguments) {
  effc_model *model;
  const int64_t symbols[] = {1};
  if (count != 3 || effc_open(arguments[1], atoi(arguments[2]), &model)) return 1;
  double before = used();
  for (int i = 0; i < RUNS; i++)
    if (effc_run(model, symbols, (const void *[]){x}, (void *[]){y})) return 1;
  double running = used() - before;
  usleep(50000);
  before = used();
  usleep(500000);
  printf("%g %g\n", running, used() - before);
  effc_close(model);
  return 0;
}
