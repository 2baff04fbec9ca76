// A libseccomp filter under construction, with errors that name the call. Internal.
#pragma once

#include <seccomp.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <type_traits>

#include "base/status.h"

namespace tidegate::onshore {

class FilterBuilder {
 public:
  // `bad_arch` answers int 0x80 and x32 calls.
  static Result<FilterBuilder> Make(uint32_t default_action, uint32_t bad_arch,
                                    bool every_thread = true);

  // A call that libseccomp does not know is left to the default action, which refuses; so for an
  // allowed one it is an error.
  Status Add(uint32_t action, const char* name, std::initializer_list<scmp_arg_cmp> arguments = {});
  template <typename Names>
  Status AddAll(uint32_t action, const Names& names) {
    for (const char* name : names) TG_RETURN_IF_ERROR(Add(action, name));
    return OkStatus();
  }
  Status Load();  // for every thread of the process, unless Make was told otherwise

 private:
  struct Release {
    void operator()(void* context) const { seccomp_release(context); }
  };
  std::unique_ptr<void, Release> context_;
};

}  // namespace tidegate::onshore
