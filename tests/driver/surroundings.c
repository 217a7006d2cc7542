/* Runs a model in a host with a rounding mode, traps and signals of its own; then prints whether
 * results changed, the host's settings survived, and any of the model's threads took a signal. */
#define _GNU_SOURCE
#include "effc.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

enum { IMAGES = 7, RUNS = 50 };
static float x[IMAGES * 3 * 12 * 12], expected[IMAGES * 5], found[IMAGES * 5];
static volatile sig_atomic_t elsewhere, taken;
static long first;

static void handle(int number) {
  (void)number;
  taken++;
  elsewhere += syscall(SYS_gettid) != first;
}

static int run(effc_model *model, float *output) {
  const int64_t symbols[] = {IMAGES};
  return effc_run(model, symbols, (const void *[]){x}, (void *[]){output});
}

int main(int count, char **arguments) {
  effc_model *model;
  int failed = 0, changed = 0, mode;
  first = syscall(SYS_gettid);
  struct sigaction action = {.sa_handler = handle};
  sigaction(SIGUSR1, &action, NULL);
  for (size_t i = 0; i < sizeof x / sizeof *x; i++) x[i] = (float)(i * 37 % 101) / 50 - 1;
  x[3] = 1e-44f;
  if (count != 2 || effc_open(arguments[1], 3, &model) || run(model, expected)) return 1;
  const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST};
  for (int i = 0; i < RUNS; i++) {
    fesetround(mode = modes[i % 4]);
    feenableexcept(FE_INEXACT | FE_UNDERFLOW);
    failed += run(model, found);
    changed += fegetround() != mode || fegetexcept() != (FE_INEXACT | FE_UNDERFLOW);
    fedisableexcept(FE_ALL_EXCEPT);
    fesetround(FE_TONEAREST);
    failed += memcmp(expected, found, sizeof expected) != 0;
    kill(getpid(), SIGUSR1);
  }
  effc_close(model);
  printf("%d failed, %d changed, %d of %d elsewhere\n", failed, changed, (int)elsewhere, (int)taken);
  return 0;
}
