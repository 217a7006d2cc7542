"""The clean pipeline every compile starts with."""

CLEAN = (
    "canonicalize,fold-identities,fold-constants,fold-norms,"
    "share-common,fold-identities,remove-dead"
)
