"""The pipelines that turn a program into regions a backend makes kernels of."""

SPELL_OUT = (
    "select-rows,lower-integer,decompose-linear-attention,decompose-rare,decompose-rows,lower-half,"
    "share-common,fold-constants,lower-blocks,remove-dead"
)
FUSE = "fuse-regions"
