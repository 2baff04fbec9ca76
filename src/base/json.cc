#include "base/json.h"

#include <vector>

namespace tidegate {
namespace {

// Builds a value from parser events; a false return stops the parse and `error` says why.
template <typename Json>
class StrictBuilder {
 public:
  using number_integer_t = typename Json::number_integer_t;
  using number_unsigned_t = typename Json::number_unsigned_t;
  using number_float_t = typename Json::number_float_t;
  using string_t = typename Json::string_t;
  using binary_t = typename Json::binary_t;

  StrictBuilder(size_t max_depth, size_t max_keys) : max_depth_(max_depth), max_keys_(max_keys) {}

  bool null() { return Put(nullptr); }
  bool boolean(bool value) { return Put(value); }
  bool number_integer(number_integer_t value) { return Put(value); }
  bool number_unsigned(number_unsigned_t value) { return Put(value); }
  bool number_float(number_float_t value, const string_t&) { return Put(value); }
  bool string(string_t& value) { return Put(std::move(value)); }
  bool binary(binary_t&) { return Fail("binary values are not JSON"); }
  bool start_object(size_t) { return Open(Json::object()); }
  bool start_array(size_t) { return Open(Json::array()); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }

  bool key(string_t& name) {
    Json& object = *stack_.back();
    if (object.size() >= max_keys_) {
      return Fail(fmt::format("an object has more than {} keys", max_keys_));
    }
    if (object.contains(name)) return Fail(fmt::format("the key \"{}\" appears twice", name));
    slot_ = &object[name];
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) {
    return Fail(fmt::format("malformed JSON or invalid UTF-8 at byte {}", position));
  }

  const std::string& error() const { return error_; }
  Json Take() { return std::move(root_); }

 private:
  bool Fail(std::string message) {
    if (error_.empty()) error_ = std::move(message);
    return false;
  }

  template <typename V>
  Json* Place(V&& value) {
    if (stack_.empty()) {
      root_ = std::forward<V>(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::forward<V>(value));
      return &parent.back();
    }
    *slot_ = std::forward<V>(value);
    return slot_;
  }

  template <typename V>
  bool Put(V&& value) {
    Place(Json(std::forward<V>(value)));
    return true;
  }

  bool Open(Json container) {
    if (stack_.size() >= max_depth_) {
      return Fail(fmt::format("nested deeper than {} levels", max_depth_));
    }
    // A parent is not touched while its child is open, so the pointers stay good.
    stack_.push_back(Place(std::move(container)));
    return true;
  }

  bool Close() {
    stack_.pop_back();
    return true;
  }

  size_t max_depth_;
  size_t max_keys_;
  Json root_;
  std::vector<Json*> stack_;
  Json* slot_ = nullptr;
  std::string error_;
};

template <typename Json>
Result<Json> Parse(std::string_view text, const JsonLimits& limits, size_t max_keys,
                   std::string_view what) {
  if (text.size() > limits.max_bytes) {
    return ResourceExhausted("{} has {} bytes, the limit is {}", what, text.size(),
                             limits.max_bytes);
  }
  StrictBuilder<Json> builder(limits.max_depth, max_keys);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return InvalidArgument("{}: {}", what, builder.error());
  }
  return builder.Take();
}

}  // namespace

Result<nlohmann::json> ParseStrictJson(std::string_view text, const JsonLimits& limits,
                                       std::string_view what) {
  return Parse<nlohmann::json>(text, limits, SIZE_MAX, what);
}

Result<nlohmann::ordered_json> ParseStrictOrderedJson(std::string_view text,
                                                      const JsonLimits& limits,
                                                      std::string_view what) {
  // Finding a key in an ordered object is linear, so the number of keys is bounded.
  return Parse<nlohmann::ordered_json>(text, limits, 4096, what);
}

}  // namespace tidegate
