// Filters, tests, methods and functions of the chat template interpreter. Internal to src/model.
// Their errors have no place: the evaluator adds the template and the line.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "model/chat_template_value.h"

namespace tidegate::model::chat {

struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> keywords;
};

// kUnsupported for a name that is not built, kInvalidArgument for a value it does not take.
Result<Value> ApplyFilter(std::string_view name, const Value& value, const Arguments& arguments);
Result<bool> ApplyTest(std::string_view name, const Value& value);
Result<Value> CallMethod(std::string_view name, const Value& self, const Arguments& arguments);

// value.name, value[index], value[begin:end:step] (null where left out). What is not there is
// undefined, as in Jinja; looking into an undefined value is an error.
Result<Value> GetAttribute(const Value& value, std::string_view name);
Result<Value> GetIndex(const Value& value, const Value& index);
Result<Value> GetSlice(const Value& value, const Value* begin, const Value* end, const Value* step);

// a + b and the rest of "+ - * // % ~", a == b and the rest of "== != < <= > >= in, not in".
Result<Value> Operate(std::string_view op, const Value& a, const Value& b);
Result<bool> Compare(std::string_view op, const Value& a, const Value& b);

// strftime() of a pinned day, YYYY-MM-DD, at midnight.
Result<std::string> FormatDate(std::string_view date, std::string_view format);

}  // namespace tidegate::model::chat
