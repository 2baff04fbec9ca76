#include "protocols/documents.h"

#include "protocols/archive.h"

TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Signed)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Layout)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::JobManifest)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::RoundAnnouncement)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::AdapterManifest)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::UpdateKey)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::ReleaseManifest)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::Receipt)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::AbandonNotice)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::SiteRequest)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::protocols::SiteApproval)
