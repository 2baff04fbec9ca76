#include "onshore/ipc/messages.h"

#include "protocols/archive.h"

TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::IpcHello)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::BulkBegin)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::BulkData)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::Isolation)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::RoundStart)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::Dataset)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::Outside)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::NoUpdate)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::RoundResult)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::Stop)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::NeedBlock)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::WantBlocks)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::Known)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::Waiting)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::LinkState)
TIDEGATE_INSTANTIATE_MESSAGE(tidegate::onshore::OfferRefused)
