"""The pipeline that turns a program into regions a backend makes kernels of."""

LOWER = "lower-integer,decompose-rows,share-common,fold-constants,remove-dead,fuse-regions"
