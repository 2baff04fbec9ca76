// site.toml and coordinator.toml. Each refuses the other's keys, so an input is given to both.
#include "fuzz.h"
#include "offshore/federation_config.h"
#include "onshore/supervisor/site_config.h"

namespace tidegate::fuzz {
namespace {

const Folder& Files() {
  static const Folder folder;
  return folder;
}

}  // namespace

Target Describe() {
  Target target;
  target.seeds = {
      "name = \"hospital-a\"\ncoordinator = \"tcp://192.0.2.1:7443\"\nbase = "
      "\"/srv/models/SmolLM2-135M\"\nrecords = \"train.jsonl\"\nheldout = \"h.jsonl\"\nthreads = "
      "8\nready_seconds = 60\ndtype = \"bf16\"\nwalls = "
      "\"netns,seccomp,landlock_fs,pinned_address\"\nseparate_uids = [1001, 1002, 1003]\n",
      "name = \"demo\"\nfederation = \"000102030405060708090a0b0c0d0e0f\"\naddress = "
      "\"tcp://192.0.2.1:7443\"\nlisten = \"tcp://*:7443\"\nblock_store_gib = 64\nkeep_versions "
      "= 8\nlease_seconds = 10\n"};
  target.memory_per_byte = 1024;
  return target;
}

}  // namespace tidegate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidegate;
  const fuzz::Folder& files = fuzz::Files();
  files.Put("site.toml", AsText({data, size}));
  files.Put("coordinator.toml", AsText({data, size}));
  if (const auto site = onshore::LoadSiteConfig(files.path())) {
    fuzz::Require(!site->name.empty() && site->threads >= 1 && site->threads <= 256,
                  "a site has a name and threads");
  }
  if (const auto federation = offshore::LoadFederationConfig(files.path())) {
    fuzz::Require(!federation->address.empty() && federation->lease_millis > 0,
                  "a federation has an address and a lease");
  }
  return 0;
}
