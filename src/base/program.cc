#include "base/program.h"

namespace tidegate {

const char* Version() { return TIDEGATE_VERSION; }

}  // namespace tidegate
