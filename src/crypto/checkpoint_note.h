// Heads of a Merkle log as C2SP checkpoints (c2sp.org/tlog-checkpoint) in signed notes
// (c2sp.org/signed-note) with one Ed25519 signature:
//
//   ORIGIN \n SIZE \n BASE64(root) \n \n — NAME BASE64(key hash || signature) \n
//
// There is one byte string for one head, name and key, and everything else is refused: no extension
// lines, no second signature, no leading zeros, strict base64. Thread-safe.
#pragma once

#include <string>

#include "crypto/sign.h"

namespace tidegate::crypto {

inline constexpr size_t kNoteMaxBytes = 16 * 1024;
inline constexpr size_t kNoteMaxNameBytes = 255;

struct Checkpoint {
  std::string origin;  // which log; like a note name, and may hold spaces
  uint64_t size = 0;   // entries
  Digest root{};
  friend bool operator==(const Checkpoint&, const Checkpoint&) = default;
};

// The first 4 bytes of SHA-256(name || "\n" || 0x01 || key).
std::array<uint8_t, 4> NoteKeyHash(std::string_view name, const VerifyKey& key);

// A note of any text. Names: 1 to 255 printable ASCII characters without space and '+'.
Result<std::string> SignNote(std::string_view text, std::string_view name, const SigningKey& key);
// The text of a note that `name` signed with `key`. kInvalidArgument for another form,
// kUnauthenticated for another name or key or an altered text.
Result<std::string> OpenNote(std::string_view note, std::string_view name, const VerifyKey& key);

// The three lines. kInvalidArgument for an origin that is empty, too long or not printable ASCII.
Result<std::string> CheckpointText(const Checkpoint& checkpoint);
Result<Checkpoint> ParseCheckpointText(std::string_view text);

Result<std::string> SignCheckpoint(const Checkpoint& checkpoint, std::string_view name,
                                   const SigningKey& key);
Result<Checkpoint> OpenCheckpoint(std::string_view note, std::string_view name,
                                  const VerifyKey& key);

}  // namespace tidegate::crypto
