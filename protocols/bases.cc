#include "protocols/bases.h"

#include "protocols/archive.h"

TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::BaseManifest)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::BaseRevocation)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::BaseList)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::BaseIndex)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::BasePatch)

// Messages
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Base)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Revoke)
