// The short texts that people and mail carry: armour, keys, key files, signed notes and
// checkpoints, hex and base64, addresses, sets of walls, lists of modules. Each that promises one
// form is held to it.
#include <sys/stat.h>

#include "base/file.h"
#include "crypto/armor.h"
#include "crypto/checkpoint_note.h"
#include "crypto/document.h"
#include "crypto/keyfile.h"
#include "fuzz.h"
#include "model/adapter.h"
#include "onshore/sandbox/address_pin.h"
#include "onshore/sandbox/walls.h"
#include "tests/gate/gate_samples.h"

namespace tidegate::fuzz {
namespace {

constexpr const char* kLabel = "SITE REQUEST";

const Folder& Files() {
  static const Folder folder;
  return folder;
}

std::string KeyFile() {
  const Folder folder;
  const std::string path = folder.path() + "/key";
  Require(crypto::WriteKeyFile(path, gate::SiteKey()).ok(), "a key file can be written");
  return Text(*ReadFile(path, 4096));
}

}  // namespace

Target Describe() {
  Target target;
  const crypto::SigningKey& key = gate::SiteKey();
  const auto request = crypto::SignDocument(key, crypto::domains::kSiteRequest,
                                            protocols::SiteRequest{"north", {}, {}, 1});
  const crypto::Checkpoint head{"tidegate/00/north", 17, gate::BaseHash()};
  target.seeds = {*crypto::EncodeArmor(kLabel, protocols::Encode(*request)),
                  KeyFile(),
                  key.verify_key().ToText(),
                  *crypto::SignCheckpoint(head, "north", key),
                  *crypto::CheckpointText(head),
                  ToHex(gate::BaseHash()),
                  ToBase64(gate::BaseHash()),
                  "192.0.2.7:7443",
                  "[2001:db8::7]:7443",
                  "netns seccomp,landlock_fs",
                  "q_proj,v_proj"};
  return target;
}

void Binary(std::string_view text) {
  if (const auto bytes = FromHex(text)) {
    Require(bytes->size() * 2 == text.size(), "hex is two digits a byte");
  }
  if (const auto bytes = FromBase64(text)) {
    Require(ToBase64(*bytes) == text, "base64 has one text");
  }
  if (const auto bytes = crypto::DecodeArmor(kLabel, text)) {
    std::string plain;
    for (const char c : text) {
      if (c != '\r') plain.push_back(c);
    }
    if (!plain.ends_with('\n')) plain.push_back('\n');
    Require(*crypto::EncodeArmor(kLabel, *bytes) == plain, "armour has one text");
    const auto document = crypto::DecodeArmored(kLabel, text, "input");
    if (document) {
      (void)crypto::OpenSelfSigned(&protocols::SiteRequest::sign_key, crypto::domains::kSiteRequest,
                                   *document, "input")
          .has_value();
    }
  }
}

void Signed(std::string_view text) {
  const crypto::SigningKey& key = gate::SiteKey();
  if (const auto read = crypto::VerifyKey::FromText(text)) {
    Require(read->ToText() == text, "a key has one text");
  }
  if (const auto head = crypto::ParseCheckpointText(text)) {
    const auto again = crypto::CheckpointText(*head);
    Require(again && *again == text, "a checkpoint has one text");
  }
  if (const auto head = crypto::OpenCheckpoint(text, "north", key.verify_key())) {
    Require(*crypto::SignCheckpoint(*head, "north", key) == text, "a head has one note");
  }
  Files().Put("key", text);
  (void)crypto::ReadSigningKey(Files().path() + "/key").has_value();
  (void)crypto::ReadCurveKey(Files().path() + "/key").has_value();
}

void Names(std::string_view text) {
  if (const auto address = onshore::ParsePinnedAddress(text)) {
    const auto again = onshore::ParsePinnedAddress(onshore::FormatAddress(*address));
    Require(again && onshore::FormatAddress(*again) == onshore::FormatAddress(*address),
            "an address that is printed is an address");
  }
  if (const auto walls = onshore::ParseWallSet(text)) {
    const auto again = onshore::ParseWallSet(walls->ToString());
    Require(again && *again == *walls, "a set of walls that is printed is the set");
  }
  if (const auto modules = model::ParseTargets(text)) {
    Require(modules->size() <= model::kModulesPerLayer, "there are seven modules");
  }
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const std::string_view text = AsText({data, size});
  fuzz::Binary(text);
  fuzz::Signed(text);
  fuzz::Names(text);
  return 0;
}
