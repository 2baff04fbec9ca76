// One attempt each at a message that our archives must not take, though cereal would; as cases.cc.
//
// With cereal's own headers for what it takes, as somebody would include them to get around this;
// CASE_BARE_… without.
#ifndef CASE_BARE_POINTER_FIELD
#include <cereal/types/map.hpp>
#include <cereal/types/memory.hpp>
#include <cereal/types/optional.hpp>
#include <cereal/types/polymorphic.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/vector.hpp>
#endif

#include "base/bytes.h"
#include "protocols/archive.h"

namespace tidegate {

struct Plain {
  uint32_t number = 0;
  template <class A>
  void serialize(A& ar) {
    ar(number);
  }
};
struct Virtual {
  virtual ~Virtual() = default;
  uint32_t number = 0;
  template <class A>
  void serialize(A& ar) {
    ar(number);
  }
};
template <typename Field>
struct With {
  Field field{};
  template <class A>
  void serialize(A& ar) {
    ar(field);
  }
};

bool Attempt(Bytes bytes) {
#if defined(CASE_CONTROL)
  bytes = protocols::Encode(With<protocols::Bounded<Plain, 4>>{});
  return protocols::Decode<With<Plain>>(bytes).has_value();
#elif defined(CASE_UNBOUNDED_FIELD)
  bytes = protocols::Encode(With<std::vector<uint8_t>>{});
#elif defined(CASE_STRING_FIELD)
  bytes = protocols::Encode(With<std::string>{});
#elif defined(CASE_MAP_FIELD)
  bytes = protocols::Encode(With<std::map<uint32_t, uint32_t>>{});
#elif defined(CASE_OPTIONAL_FIELD)
  bytes = protocols::Encode(With<std::optional<uint32_t>>{});
#elif defined(CASE_POINTER_FIELD) || defined(CASE_BARE_POINTER_FIELD)
  bytes = protocols::Encode(With<Plain*>{});
#elif defined(CASE_UNIQUE_POINTER_FIELD)
  bytes = protocols::Encode(With<std::unique_ptr<Plain>>{});
#elif defined(CASE_SHARED_POINTER_FIELD)
  bytes = protocols::Encode(With<std::shared_ptr<Plain>>{});
#elif defined(CASE_WEAK_POINTER_FIELD)
  bytes = protocols::Encode(With<std::weak_ptr<Plain>>{});
#elif defined(CASE_SHARED_VIRTUAL_FIELD)
  bytes = protocols::Encode(With<std::shared_ptr<Virtual>>{});
#elif defined(CASE_VIRTUAL_MESSAGE)
  bytes = protocols::Encode(Virtual{});
#elif defined(CASE_VIRTUAL_FIELD)
  bytes = protocols::Encode(With<Virtual>{});
#elif defined(CASE_DECODE_UNBOUNDED)
  return protocols::Decode<With<std::vector<uint8_t>>>(bytes).has_value();
#elif defined(CASE_DECODE_SHARED_POINTER)
  return protocols::Decode<With<std::shared_ptr<Plain>>>(bytes).has_value();
#elif defined(CASE_DECODE_UNIQUE_POINTER)
  return protocols::Decode<With<std::unique_ptr<Plain>>>(bytes).has_value();
#elif defined(CASE_DECODE_VIRTUAL)
  return protocols::Decode<With<Virtual>>(bytes).has_value();
#else
#error "no such case"
#endif
  return false;
}

}  // namespace tidegate
