// Descriptors that a client handed over: what they are, without waiting for whoever serves their
// file system. Pure functions of the descriptor.
#pragma once

#include <cstdint>
#include <optional>

namespace tidegate::onshore {

// The size of a regular file that is open for reading only; nothing for anything else.
std::optional<uint64_t> ReadOnlyFileBytes(int fd);
// Whether it is an end of a pipe.
bool IsPipe(int fd);

}  // namespace tidegate::onshore
