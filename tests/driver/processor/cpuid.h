/* In place of the compiler's: this processor, but without one feature. EFFC_LACKS names it as `leaf
 * subleaf register bit` in hexadecimal. */
#include <stdio.h>
#include <stdlib.h>

static int __get_cpuid_count(unsigned leaf, unsigned subleaf, unsigned *a, unsigned *b, unsigned *c,
                             unsigned *d) {
  unsigned *registers[] = {a, b, c, d}, lacks[4];
  const char *text = getenv("EFFC_LACKS");
  __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "0"(leaf), "2"(subleaf));
  if (text && sscanf(text, "%x %x %x %x", lacks, lacks + 1, lacks + 2, lacks + 3) == 4 &&
      lacks[0] == leaf && lacks[1] == subleaf)
    *registers[lacks[2]] &= ~(1u << lacks[3]);
  return 1;
}

static int __get_cpuid(unsigned leaf, unsigned *a, unsigned *b, unsigned *c, unsigned *d) {
  return __get_cpuid_count(leaf, 0, a, b, c, d);
}
