/* Opens a model with a number of threads; prints what came of it and how many tasks there are. */
#include "effc.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments) {
  effc_model *model;
  int tasks = 0;
  if (count != 3) return 1;
  puts(effc_open(arguments[1], atoi(arguments[2]), &model) ? effc_message() : "opened");
  DIR *folder = opendir("/proc/self/task");
  if (!folder) return 1;
  for (struct dirent *entry; (entry = readdir(folder));) tasks += entry->d_name[0] != '.';
  closedir(folder);
  printf("%d task%s\n", tasks, tasks == 1 ? "" : "s");
  effc_close(model);
  return 0;
}
