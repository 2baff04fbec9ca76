#include "model/chat_template_eval.h"

#include <utility>

#include "base/limits.h"
#include "base/utf8.h"
#include "model/chat_template_builtins.h"

namespace tidegate::model::chat {
namespace {

class Evaluator {
 public:
  Evaluator(std::string_view what, const RenderOptions& options) : what_(what), options_(options) {}

  Result<Output> Run(const Program& program, std::span<const ChatMessage> messages) {
    Dict& globals = scopes_.emplace_back();
    std::vector<Value> list;
    for (size_t i = 0; i < messages.size(); ++i) {
      auto message = std::make_shared<Dict>();
      message->message = static_cast<int>(i);
      message->Set("role", Value::OfString(messages[i].role));
      Text content{messages[i].content, {{0, messages[i].content.size(), message->message}}};
      message->Set("content", Value::OfText(std::move(content)));
      list.push_back(Value{std::shared_ptr<const Dict>(std::move(message))});
    }
    TG_ASSIGN_OR_RETURN(Value value, MakeList(std::move(list)));
    globals.Set("messages", std::move(value));
    globals.Set("add_generation_prompt", Value{options_.add_generation_prompt});
    globals.Set("bos_token", Value::OfString(options_.bos_token));
    globals.Set("eos_token", Value::OfString(options_.eos_token));
    globals.Set("tools", Value{None{}});  // as transformers does where there are none
    globals.Set("documents", Value{None{}});
    globals.Set("namespace", Value{Function::kNamespace});
    globals.Set("raise_exception", Value{Function::kRaiseException});
    globals.Set("strftime_now", Value{Function::kStrftimeNow});
    scopes_.emplace_back();  // what the template sets
    TG_RETURN_IF_ERROR(RunNodes(program.nodes));
    return std::move(output_);
  }

 private:
  Status RunNodes(const Nodes& nodes) {
    for (const Node& node : nodes) TG_RETURN_IF_ERROR(RunNode(node));
    return OkStatus();
  }

  Status RunNode(const Node& node) {
    TG_RETURN_IF_ERROR(Charge(node.line, 0));
    switch (node.kind) {
      case NodeKind::kData:
        return Write(node.line, Text{node.text, {}});
      case NodeKind::kOutput: {
        TG_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.expr));
        TG_ASSIGN_OR_RETURN(const Text text, Placed(node.line, ToText(value)));
        return Write(node.line, text);
      }
      case NodeKind::kIf:
        return RunIf(node);
      case NodeKind::kFor:
        return RunFor(node);
      case NodeKind::kSet:
        return RunSet(node);
      case NodeKind::kGeneration: {
        const size_t begin = output_.text.bytes.size();
        scopes_.emplace_back();
        TG_RETURN_IF_ERROR(RunNodes(node.body));
        scopes_.pop_back();
        output_.generations.push_back({begin, output_.text.bytes.size()});
        return OkStatus();
      }
    }
    return Internal("a chat template node of unknown kind");
  }

  Status RunIf(const Node& node) {
    for (const Branch& branch : node.branches) {
      bool taken = branch.condition == nullptr;
      if (!taken) {
        TG_ASSIGN_OR_RETURN(const Value value, Evaluate(*branch.condition));
        taken = Truth(value);
      }
      if (taken) return RunNodes(branch.body);
    }
    return OkStatus();
  }

  Result<std::shared_ptr<const List>> Items(const Node& node) {
    TG_ASSIGN_OR_RETURN(const Value value, Evaluate(*node.expr));
    if (const auto* list = std::get_if<std::shared_ptr<const List>>(&value.data)) return *list;
    if (value.undefined()) return std::make_shared<const List>();
    return At(node.line, Unsupported("for over {} is not supported", KindName(value)));
  }

  Status RunFor(const Node& node) {
    if (node.targets.size() > 1) {
      return At(node.line, Unsupported("for with several names is not supported"));
    }
    TG_ASSIGN_OR_RETURN(const std::shared_ptr<const List> list, Items(node));
    const std::vector<Value>& items = list->items;
    if (items.empty()) return RunNodes(node.other);
    for (size_t i = 0; i < items.size(); ++i) {
      TG_RETURN_IF_ERROR(Charge(node.line, 0));
      scopes_.emplace_back();
      scopes_.back().Set("loop", Loop(items, i));
      scopes_.back().Set(node.targets[0], items[i]);
      const size_t begin = output_.text.bytes.size();
      TG_RETURN_IF_ERROR(RunNodes(node.body));
      scopes_.pop_back();
      const Dict* item = items[i].dict();
      if (item != nullptr && item->message >= 0) {
        output_.turns.push_back({item->message, begin, output_.text.bytes.size()});
      }
    }
    return OkStatus();
  }

  static Value Loop(const std::vector<Value>& items, size_t i) {
    auto loop = std::make_shared<Dict>();
    const auto at = static_cast<int64_t>(i);
    const auto size = static_cast<int64_t>(items.size());
    loop->Set("index", Value{at + 1});
    loop->Set("index0", Value{at});
    loop->Set("revindex", Value{size - at});
    loop->Set("revindex0", Value{size - at - 1});
    loop->Set("first", Value{at == 0});
    loop->Set("last", Value{at + 1 == size});
    loop->Set("length", Value{size});
    if (at > 0) loop->Set("previtem", items[i - 1]);
    if (at + 1 < size) loop->Set("nextitem", items[i + 1]);
    return Value{std::shared_ptr<const Dict>(std::move(loop))};
  }

  Status RunSet(const Node& node) {
    TG_ASSIGN_OR_RETURN(Value value, Evaluate(*node.expr));
    if (node.attribute.empty()) {
      scopes_.back().Set(node.targets[0], std::move(value));
      return OkStatus();
    }
    const Value target = Lookup(node.targets[0]);
    const auto* space = std::get_if<Namespace>(&target.data);
    if (space == nullptr) {
      return At(node.line, InvalidArgument("'{}' is {}: only a namespace's attributes can be set",
                                           node.targets[0], KindName(target)));
    }
    return SetIn(node.line, *space->dict, node.attribute, std::move(value));
  }

  Status SetIn(int line, Dict& space, const std::string& name, Value value) {
    if (std::holds_alternative<Namespace>(value.data)) {
      return At(line, Unsupported("a namespace inside a namespace is not supported"));
    }
    space.Set(name, std::move(value));
    return OkStatus();
  }

  Value Lookup(std::string_view name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      if (const Value* found = scope->Find(name)) return *found;
    }
    return Value{};
  }

  Result<Value> Evaluate(const Expr& expr) {
    TG_ASSIGN_OR_RETURN(Value value, EvaluateKind(expr));
    // Texts are made of copies: the work is their bytes.
    const Text* text = value.text();
    TG_RETURN_IF_ERROR(Charge(expr.line, text != nullptr ? text->bytes.size() : 0));
    return value;
  }

  Result<Value> EvaluateKind(const Expr& expr) {
    switch (expr.kind) {
      case ExprKind::kText:
        return Value::OfString(expr.text);
      case ExprKind::kNumber:
        return Value{expr.number};
      case ExprKind::kBoolean:
        return Value{expr.number != 0};
      case ExprKind::kNone:
        return Value{None{}};
      case ExprKind::kName:
        return Lookup(expr.text);
      case ExprKind::kCall:
        return Call(expr);
      case ExprKind::kAnd:
      case ExprKind::kOr: {
        TG_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.children[0]));
        if (Truth(left) == (expr.kind == ExprKind::kOr)) return left;
        return Evaluate(*expr.children[1]);
      }
      case ExprKind::kCondition: {
        TG_ASSIGN_OR_RETURN(const Value condition, Evaluate(*expr.children[1]));
        if (Truth(condition)) return Evaluate(*expr.children[0]);
        return expr.children[2] != nullptr ? Evaluate(*expr.children[2]) : Value{};
      }
      case ExprKind::kCompare:
        return Chain(expr);
      case ExprKind::kFilter: {
        TG_ASSIGN_OR_RETURN(const Value value, Evaluate(*expr.children[0]));
        TG_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
        return Placed(expr.line, ApplyFilter(expr.text, value, arguments));
      }
      default:
        return EvaluateStrict(expr);
    }
  }

  // The kinds that need the values of all their children.
  Result<Value> EvaluateStrict(const Expr& expr) {
    std::vector<Value> values;
    values.reserve(expr.children.size());
    for (const ExprPtr& child : expr.children) {
      Value value;
      if (child != nullptr) {
        TG_ASSIGN_OR_RETURN(value, Evaluate(*child));
      }
      values.push_back(std::move(value));
    }
    switch (expr.kind) {
      case ExprKind::kList:
        return Placed(expr.line, MakeList(std::move(values)));
      case ExprKind::kAttribute:
        return Placed(expr.line, GetAttribute(values[0], expr.text));
      case ExprKind::kIndex:
        return Placed(expr.line, GetIndex(values[0], values[1]));
      case ExprKind::kSlice: {
        const auto part = [&](size_t i) {
          return expr.children[i] != nullptr ? &values[i] : nullptr;
        };
        return Placed(expr.line, GetSlice(values[0], part(1), part(2), part(3)));
      }
      case ExprKind::kTest: {
        TG_ASSIGN_OR_RETURN(const bool yes, Placed(expr.line, ApplyTest(expr.text, values[0])));
        return Value{yes};
      }
      case ExprKind::kNot:
        return Value{!Truth(values[0])};
      case ExprKind::kNegate:
        return Placed(expr.line, Operate("-", Value{int64_t{0}}, values[0]));
      case ExprKind::kBinary:
        return Placed(expr.line, Operate(expr.text, values[0], values[1]));
      default:
        return Internal("a chat template expression of unknown kind");
    }
  }

  // a < b < c is a < b and b < c, each evaluated at most once.
  Result<Value> Chain(const Expr& expr) {
    TG_ASSIGN_OR_RETURN(Value left, Evaluate(*expr.children[0]));
    for (size_t i = 0; i < expr.operators.size(); ++i) {
      TG_ASSIGN_OR_RETURN(Value right, Evaluate(*expr.children[i + 1]));
      TG_ASSIGN_OR_RETURN(const bool yes,
                          Placed(expr.line, Compare(expr.operators[i], left, right)));
      if (!yes) return Value{false};
      left = std::move(right);
    }
    return Value{true};
  }

  Result<Arguments> EvaluateArguments(const Expr& expr) {
    Arguments arguments;
    for (size_t i = 1; i < expr.children.size(); ++i) {
      TG_ASSIGN_OR_RETURN(Value value, Evaluate(*expr.children[i]));
      arguments.values.push_back(std::move(value));
    }
    for (const auto& [name, child] : expr.keywords) {
      TG_ASSIGN_OR_RETURN(Value value, Evaluate(*child));
      arguments.keywords.emplace_back(name, std::move(value));
    }
    return arguments;
  }

  Result<Value> Call(const Expr& expr) {
    const Expr& callee = *expr.children[0];
    if (callee.kind == ExprKind::kAttribute) {
      TG_ASSIGN_OR_RETURN(const Value self, Evaluate(*callee.children[0]));
      TG_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
      return Placed(expr.line, CallMethod(callee.text, self, arguments));
    }
    const Value value = callee.kind == ExprKind::kName ? Lookup(callee.text) : Value{};
    const auto* function = std::get_if<Function>(&value.data);
    if (function == nullptr) {
      return At(expr.line, Unsupported("the function '{}' is not supported: there are namespace, "
                                       "raise_exception, strftime_now",
                                       callee.text));
    }
    TG_ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expr));
    if (*function == Function::kNamespace) return MakeNamespace(expr.line, arguments);
    const bool one_text = arguments.values.size() == 1 && arguments.keywords.empty() &&
                          arguments.values[0].text() != nullptr;
    if (!one_text) return At(expr.line, InvalidArgument("{} takes one text", callee.text));
    const Text& text = *arguments.values[0].text();
    if (*function == Function::kRaiseException) return Raise(expr.line, text);
    TG_ASSIGN_OR_RETURN(std::string date, Placed(expr.line, FormatDate(options_.date, text.bytes)));
    return Value::OfString(std::move(date));
  }

  Result<Value> MakeNamespace(int line, const Arguments& arguments) {
    if (!arguments.values.empty()) {
      return At(line, Unsupported("namespace of something is not supported: name its attributes"));
    }
    Namespace space{std::make_shared<Dict>()};
    for (const auto& [name, value] : arguments.keywords) {
      TG_RETURN_IF_ERROR(SetIn(line, *space.dict, name, value));
    }
    return Value{std::move(space)};
  }

  // The message is the template's, but what it quotes of a record stays out of errors and logs.
  Error Raise(int line, const Text& text) {
    std::string shown;
    size_t at = 0;
    for (const Mark& mark : text.marks) {
      shown += text.bytes.substr(at, mark.begin - at) + "[content]";
      at = mark.end;
    }
    shown += text.bytes.substr(at);
    return At(line, InvalidArgument("the template refuses the conversation: {}",
                                    shown.substr(0, ValidUtf8Prefix(shown.substr(0, 400)))));
  }

  Status Write(int line, const Text& text) {
    TG_RETURN_IF_ERROR(Charge(line, text.bytes.size()));
    if (output_.text.bytes.size() + text.bytes.size() > kMaxTemplateOutputBytes) {
      return At(line, ResourceExhausted("the rendered text is longer than {} bytes",
                                        kMaxTemplateOutputBytes));
    }
    output_.text.Append(text);
    return OkStatus();
  }

  Status Charge(int line, size_t bytes) {
    steps_ += 1 + static_cast<int64_t>(bytes / 256);
    if (steps_ <= kMaxTemplateSteps) return OkStatus();
    return At(line, ResourceExhausted("more than {} steps for one conversation: shorten it",
                                      kMaxTemplateSteps));
  }

  Error At(int line, const Status& status) const {
    return Error(status.code(), fmt::format("{}, line {}: {}", what_, line, status.message()));
  }
  template <typename T>
  Result<T> Placed(int line, Result<T> result) const {
    if (!result) return At(line, result.error());
    return result;
  }

  std::string_view what_;
  const RenderOptions& options_;
  std::vector<Dict> scopes_;
  Output output_;
  int64_t steps_ = 0;
};

}  // namespace

Result<Output> RunProgram(const Program& program, std::string_view what,
                          std::span<const ChatMessage> messages, const RenderOptions& options) {
  return Evaluator(what, options).Run(program, messages);
}

}  // namespace tidegate::model::chat
