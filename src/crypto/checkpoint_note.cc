#include "crypto/checkpoint_note.h"

#include <charconv>

#include "crypto/hash.h"

namespace tidegate::crypto {

namespace {

constexpr uint8_t kEd25519Type = 0x01;
constexpr std::string_view kDash = "\xe2\x80\x94 ";  // an em dash and a space
constexpr size_t kHashBytes = 4;

Status CheckName(std::string_view name) {
  const bool ok =
      !name.empty() && name.size() <= kNoteMaxNameBytes &&
      std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7f && c != '+'; });
  if (ok) return OkStatus();
  return InvalidArgument(
      "the name of a note's signer must be 1 to {} printable ASCII characters without space and +",
      kNoteMaxNameBytes);
}

Status CheckOrigin(std::string_view origin) {
  const bool ok =
      !origin.empty() && origin.size() <= kNoteMaxNameBytes &&
      std::all_of(origin.begin(), origin.end(), [](char c) { return c >= ' ' && c < 0x7f; });
  if (ok) return OkStatus();
  return InvalidArgument("the origin of a checkpoint must be 1 to {} printable ASCII characters",
                         kNoteMaxNameBytes);
}

// The line up to the next newline, which is dropped; kInvalidArgument when there is none.
Result<std::string_view> TakeLine(std::string_view* text, std::string_view what) {
  const size_t end = text->find('\n');
  if (end == std::string_view::npos) {
    return InvalidArgument("the checkpoint ends before the line with its {}", what);
  }
  const std::string_view line = text->substr(0, end);
  text->remove_prefix(end + 1);
  return line;
}

}  // namespace

std::array<uint8_t, 4> NoteKeyHash(std::string_view name, const VerifyKey& key) {
  const uint8_t separator[] = {'\n', kEd25519Type};
  const Digest digest = Sha256::Of({AsBytes(name), ByteSpan(separator), key.bytes()});
  std::array<uint8_t, 4> hash;
  std::copy_n(digest.begin(), hash.size(), hash.begin());
  return hash;
}

Result<std::string> SignNote(std::string_view text, std::string_view name, const SigningKey& key) {
  TG_RETURN_IF_ERROR(CheckName(name));
  if (text.size() > kNoteMaxBytes / 2) {
    return InvalidArgument("the text of a note has {} bytes, the limit is {}", text.size(),
                           kNoteMaxBytes / 2);
  }
  // An opener finds the signature behind the last empty line, so the text may not end in one.
  if (text.ends_with("\n\n")) return InvalidArgument("the text of a note ends in an empty line");
  TG_ASSIGN_OR_RETURN(const Signature signature, key.SignNoteText(text));
  const auto hash = NoteKeyHash(name, key.verify_key());
  Bytes blob(hash.begin(), hash.end());
  blob.insert(blob.end(), signature.begin(), signature.end());
  return fmt::format("{}\n{}{} {}\n", text, kDash, name, ToBase64(blob));
}

Result<std::string> OpenNote(std::string_view note, std::string_view name, const VerifyKey& key) {
  TG_RETURN_IF_ERROR(CheckName(name));
  if (note.size() > kNoteMaxBytes) {
    return InvalidArgument("the signed note has {} bytes, the limit is {}", note.size(),
                           kNoteMaxBytes);
  }
  const size_t gap = note.rfind("\n\n");
  if (gap == std::string_view::npos) {
    return InvalidArgument("the signed note has no empty line before its signature");
  }
  const std::string_view text = note.substr(0, gap + 1);
  std::string_view line = note.substr(gap + 2);
  if (!line.starts_with(kDash) || line.find('\n') + 1 != line.size()) {
    return InvalidArgument("the signed note must end in exactly one signature line");
  }
  line.remove_prefix(kDash.size());
  line.remove_suffix(1);
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) {
    return InvalidArgument("the signature line of the note is not \"NAME BASE64\"");
  }
  if (line.substr(0, space) != name) {
    return Unauthenticated("the note is not signed by {}", name);
  }
  const auto blob = FromBase64(line.substr(space + 1));
  if (!blob || blob->size() != kHashBytes + kSignatureBytes) {
    return InvalidArgument("the signature of the note is not the base64 of {} bytes",
                           kHashBytes + kSignatureBytes);
  }
  const auto hash = NoteKeyHash(name, key);
  if (!std::equal(hash.begin(), hash.end(), blob->begin())) {
    return Unauthenticated("the note is signed by another key than {} of {}", key.ToText(), name);
  }
  TG_RETURN_IF_ERROR(key.VerifyNoteText(text, ByteSpan(*blob).subspan(kHashBytes)));
  return std::string(text);
}

Result<std::string> CheckpointText(const Checkpoint& checkpoint) {
  TG_RETURN_IF_ERROR(CheckOrigin(checkpoint.origin));
  return fmt::format("{}\n{}\n{}\n", checkpoint.origin, checkpoint.size, ToBase64(checkpoint.root));
}

Result<Checkpoint> ParseCheckpointText(std::string_view text) {
  Checkpoint checkpoint;
  std::string_view rest = text;
  TG_ASSIGN_OR_RETURN(const std::string_view origin, TakeLine(&rest, "origin"));
  TG_ASSIGN_OR_RETURN(const std::string_view size, TakeLine(&rest, "size"));
  TG_ASSIGN_OR_RETURN(const std::string_view root, TakeLine(&rest, "root"));
  if (!rest.empty()) return InvalidArgument("the checkpoint has more than its three lines");
  checkpoint.origin = origin;
  const auto parsed = std::from_chars(size.data(), size.data() + size.size(), checkpoint.size);
  if (parsed.ec != std::errc() || parsed.ptr != size.data() + size.size()) {
    return InvalidArgument("the size of the checkpoint is not a number below 2^64");
  }
  const auto bytes = FromBase64(root);
  if (!bytes || bytes->size() != checkpoint.root.size()) {
    return InvalidArgument("the root of the checkpoint is not the base64 of 32 bytes");
  }
  std::copy(bytes->begin(), bytes->end(), checkpoint.root.begin());
  // One text for one head: whatever was lenient above shows here (leading zeros).
  TG_ASSIGN_OR_RETURN(const std::string canonical, CheckpointText(checkpoint));
  if (canonical != text) return InvalidArgument("the checkpoint is not in its canonical form");
  return checkpoint;
}

Result<std::string> SignCheckpoint(const Checkpoint& checkpoint, std::string_view name,
                                   const SigningKey& key) {
  TG_ASSIGN_OR_RETURN(const std::string text, CheckpointText(checkpoint));
  return SignNote(text, name, key);
}

Result<Checkpoint> OpenCheckpoint(std::string_view note, std::string_view name,
                                  const VerifyKey& key) {
  TG_ASSIGN_OR_RETURN(const std::string text, OpenNote(note, name, key));
  return ParseCheckpointText(text);
}

}  // namespace tidegate::crypto
