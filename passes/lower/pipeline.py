"""The pipelines that turn a program into regions a backend makes kernels of."""

SPELL_OUT = "lower-integer,decompose-rows,lower-half,share-common,fold-constants,remove-dead"
FUSE = "fuse-regions"
