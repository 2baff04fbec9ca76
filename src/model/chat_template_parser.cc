#include <algorithm>
#include <optional>

#include "base/limits.h"
#include "model/chat_template_ast.h"
#include "model/chat_template_lexer.h"

namespace tidegate::model::chat {
namespace {

constexpr std::string_view kReserved[] = {"and", "or", "not", "in", "is", "if", "else"};

// Recursive descent with Jinja's precedences. Every rule that recurses counts in depth_.
class Parser {
 public:
  Parser(std::vector<Token> tokens, std::string_view what)
      : tokens_(std::move(tokens)), what_(what) {}

  Result<Program> Run() {
    Program program;
    std::string end;
    TG_ASSIGN_OR_RETURN(program.nodes, Body({}, end));
    program.has_generation = has_generation_;
    return program;
  }

 private:
  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void Skip() { at_ = std::min(at_ + 1, tokens_.size() - 1); }

  bool IsOperator(std::string_view text) const {
    return Now().kind == TokenKind::kOperator && Now().text == text;
  }
  bool IsName(std::string_view text) const {
    return Now().kind == TokenKind::kName && Now().text == text;
  }
  bool TakeOperator(std::string_view text) {
    if (!IsOperator(text)) return false;
    Skip();
    return true;
  }
  bool TakeName(std::string_view text) {
    if (!IsName(text)) return false;
    Skip();
    return true;
  }

  std::string Shown(const Token& token) const {
    switch (token.kind) {
      case TokenKind::kBlockEnd:
        return "%}";
      case TokenKind::kVariableEnd:
        return "}}";
      case TokenKind::kBlockBegin:
      case TokenKind::kVariableBegin:
      case TokenKind::kData:
        return "text";
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kString:
        return "a text";
      default:
        return token.text.substr(0, 40);
    }
  }
  Error Unexpected(std::string_view wanted) const {
    return InvalidArgument("{}, line {}: {} expected, found {}", what_, Now().line, wanted,
                           Shown(Now()));
  }
  Error NotBuilt(int line, std::string_view thing) const {
    return Unsupported("{}, line {}: {} is not supported in chat templates here", what_, line,
                       thing);
  }
  Status ExpectOperator(std::string_view text) {
    if (!TakeOperator(text)) return Unexpected(text);
    return OkStatus();
  }
  Status ExpectBlockEnd() {
    if (Now().kind != TokenKind::kBlockEnd) return Unexpected("%}");
    Skip();
    return OkStatus();
  }
  Result<std::string> ExpectName() {
    const bool reserved =
        std::find(std::begin(kReserved), std::end(kReserved), Now().text) != std::end(kReserved);
    if (Now().kind != TokenKind::kName || reserved) return Unexpected("a name");
    std::string name = Now().text;
    Skip();
    return name;
  }

  // Depth of the parser's own recursion, given back at the end of the scope.
  struct Deeper {
    explicit Deeper(int& count) : depth(count) { ++depth; }
    ~Deeper() { --depth; }
    int& depth;
  };
  Status CheckDepth() const {
    if (depth_ <= kMaxTemplateDepth) return OkStatus();
    return TooDeep(Now().line);
  }
  Error TooDeep(int line) const {
    return InvalidArgument("{}, line {}: nested more than {} deep", what_, line, kMaxTemplateDepth);
  }
  Status Count() {
    if (++nodes_ <= kMaxTemplateNodes) return OkStatus();
    return InvalidArgument("{}: more than {} nodes", what_, kMaxTemplateNodes);
  }

  Result<ExprPtr> Make(ExprKind kind, int line, std::vector<ExprPtr> children,
                       std::string text = "", int64_t number = 0) {
    TG_RETURN_IF_ERROR(Count());
    auto expr = std::make_unique<Expr>(Expr{.kind = kind, .line = line});
    for (const ExprPtr& child : children) {
      if (child != nullptr) expr->depth = std::max(expr->depth, child->depth + 1);
    }
    expr->children = std::move(children);
    expr->text = std::move(text);
    expr->number = number;
    if (expr->depth > kMaxTemplateDepth) return TooDeep(line);
    return expr;
  }
  Result<ExprPtr> Make(ExprKind kind, int line, ExprPtr a, ExprPtr b = nullptr,
                       std::string text = "") {
    std::vector<ExprPtr> children;
    children.push_back(std::move(a));
    if (b != nullptr) children.push_back(std::move(b));
    return Make(kind, line, std::move(children), std::move(text));
  }

  // Nodes up to one of the tags in `ends`, whose name is taken and put into `end`; up to the end of
  // the template where `ends` is empty.
  Result<Nodes> Body(std::vector<std::string_view> ends, std::string& end);
  Result<std::string> TagName();
  Result<Node> Statement(int line, const std::string& tag);
  Result<Node> If(int line);
  Result<Node> For(int line);
  Result<Node> Set(int line);
  Result<Node> Generation(int line);

  Result<ExprPtr> Expression();
  Result<ExprPtr> Or();
  Result<ExprPtr> And();
  Result<ExprPtr> Not();
  Result<ExprPtr> Compare();
  Result<ExprPtr> Sum();
  Result<ExprPtr> Concat();
  Result<ExprPtr> Product();
  Result<ExprPtr> Unary(bool with_filter);
  Result<ExprPtr> Primary();
  Result<ExprPtr> Bracketed(bool list, int line);
  Result<ExprPtr> Postfix(ExprPtr base);
  Result<ExprPtr> Subscript(ExprPtr base, int line);
  Result<ExprPtr> Filters(ExprPtr base);
  Result<ExprPtr> Test(ExprPtr base, int line);
  Status Arguments(Expr& call);

  std::vector<Token> tokens_;
  std::string_view what_;
  size_t at_ = 0;
  size_t nodes_ = 0;
  int depth_ = 0;
  bool in_generation_ = false;
  bool has_generation_ = false;
};

Result<Nodes> Parser::Body(std::vector<std::string_view> ends, std::string& end) {
  const Deeper deeper(depth_);
  TG_RETURN_IF_ERROR(CheckDepth());
  const int first_line = Now().line;
  Nodes nodes;
  while (Now().kind != TokenKind::kEnd) {
    TG_RETURN_IF_ERROR(Count());
    const int line = Now().line;
    if (Now().kind == TokenKind::kData) {
      nodes.push_back({.kind = NodeKind::kData, .line = line, .text = Now().text});
      Skip();
    } else if (Now().kind == TokenKind::kVariableBegin) {
      Skip();
      Node node{.kind = NodeKind::kOutput, .line = line};
      TG_ASSIGN_OR_RETURN(node.expr, Expression());
      if (Now().kind != TokenKind::kVariableEnd) return Unexpected("}}");
      Skip();
      nodes.push_back(std::move(node));
    } else {
      Skip();  // {%
      TG_ASSIGN_OR_RETURN(const std::string tag, TagName());
      if (std::find(ends.begin(), ends.end(), tag) != ends.end()) {
        end = tag;
        return nodes;
      }
      TG_ASSIGN_OR_RETURN(Node node, Statement(line, tag));
      nodes.push_back(std::move(node));
    }
  }
  if (!ends.empty()) {
    return InvalidArgument("{}, line {}: a block has no {}", what_, first_line, ends.back());
  }
  return nodes;
}

Result<std::string> Parser::TagName() {
  if (Now().kind != TokenKind::kName) return Unexpected("the name of a tag");
  std::string tag = Now().text;
  Skip();
  return tag;
}

Result<Node> Parser::Statement(int line, const std::string& tag) {
  if (tag == "if") return If(line);
  if (tag == "for") return For(line);
  if (tag == "set") return Set(line);
  if (tag == "generation") return Generation(line);
  static constexpr std::string_view kEnds[] = {"elif", "else", "endif", "endfor", "endgeneration"};
  if (std::find(std::begin(kEnds), std::end(kEnds), tag) != std::end(kEnds)) {
    return InvalidArgument("{}, line {}: {} without its beginning", what_, line, tag);
  }
  return NotBuilt(line, fmt::format("the tag '{}'", tag.substr(0, 40)));
}

Result<Node> Parser::If(int line) {
  Node node{.kind = NodeKind::kIf, .line = line};
  std::string end = "if";
  while (end != "endif") {
    Branch branch;
    const bool otherwise = end == "else";
    if (!otherwise) {
      TG_ASSIGN_OR_RETURN(branch.condition, Expression());
    }
    TG_RETURN_IF_ERROR(ExpectBlockEnd());
    if (otherwise) {
      TG_ASSIGN_OR_RETURN(branch.body, Body({"endif"}, end));
    } else {
      TG_ASSIGN_OR_RETURN(branch.body, Body({"elif", "else", "endif"}, end));
    }
    node.branches.push_back(std::move(branch));
  }
  TG_RETURN_IF_ERROR(ExpectBlockEnd());
  return node;
}

Result<Node> Parser::For(int line) {
  Node node{.kind = NodeKind::kFor, .line = line};
  do {
    TG_ASSIGN_OR_RETURN(std::string name, ExpectName());
    node.targets.push_back(std::move(name));
  } while (TakeOperator(","));
  if (!TakeName("in")) return Unexpected("in");
  TG_ASSIGN_OR_RETURN(node.expr, Or());
  if (IsName("if")) return NotBuilt(line, "a for with a condition");
  if (IsName("recursive")) return NotBuilt(line, "a recursive for");
  TG_RETURN_IF_ERROR(ExpectBlockEnd());
  std::string end;
  TG_ASSIGN_OR_RETURN(node.body, Body({"else", "endfor"}, end));
  if (end == "else") {
    TG_RETURN_IF_ERROR(ExpectBlockEnd());
    TG_ASSIGN_OR_RETURN(node.other, Body({"endfor"}, end));
  }
  TG_RETURN_IF_ERROR(ExpectBlockEnd());
  return node;
}

Result<Node> Parser::Set(int line) {
  Node node{.kind = NodeKind::kSet, .line = line};
  TG_ASSIGN_OR_RETURN(std::string name, ExpectName());
  node.targets.push_back(std::move(name));
  if (TakeOperator(".")) {
    TG_ASSIGN_OR_RETURN(node.attribute, ExpectName());
  }
  if (IsOperator(",")) return NotBuilt(line, "a set of several names");
  if (Now().kind == TokenKind::kBlockEnd || IsOperator("|")) {
    return NotBuilt(line, "a set with a body");
  }
  TG_RETURN_IF_ERROR(ExpectOperator("="));
  TG_ASSIGN_OR_RETURN(node.expr, Expression());
  if (IsOperator(",")) return NotBuilt(line, "a tuple without brackets");
  TG_RETURN_IF_ERROR(ExpectBlockEnd());
  return node;
}

Result<Node> Parser::Generation(int line) {
  if (in_generation_) {
    return InvalidArgument("{}, line {}: a generation block inside another", what_, line);
  }
  Node node{.kind = NodeKind::kGeneration, .line = line};
  TG_RETURN_IF_ERROR(ExpectBlockEnd());
  std::string end;
  in_generation_ = true;
  has_generation_ = true;
  TG_ASSIGN_OR_RETURN(node.body, Body({"endgeneration"}, end));
  in_generation_ = false;
  TG_RETURN_IF_ERROR(ExpectBlockEnd());
  return node;
}

Result<ExprPtr> Parser::Expression() {
  const Deeper deeper(depth_);
  TG_RETURN_IF_ERROR(CheckDepth());
  const int line = Now().line;
  TG_ASSIGN_OR_RETURN(ExprPtr expr, Or());
  if (!TakeName("if")) return expr;
  std::vector<ExprPtr> children;
  children.push_back(std::move(expr));
  TG_ASSIGN_OR_RETURN(ExprPtr condition, Or());
  children.push_back(std::move(condition));
  ExprPtr otherwise;
  if (TakeName("else")) {
    TG_ASSIGN_OR_RETURN(otherwise, Expression());
  }
  children.push_back(std::move(otherwise));
  return Make(ExprKind::kCondition, line, std::move(children));
}

Result<ExprPtr> Parser::Or() {
  TG_ASSIGN_OR_RETURN(ExprPtr left, And());
  while (IsName("or")) {
    const int line = Now().line;
    Skip();
    TG_ASSIGN_OR_RETURN(ExprPtr right, And());
    TG_ASSIGN_OR_RETURN(left, Make(ExprKind::kOr, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> Parser::And() {
  TG_ASSIGN_OR_RETURN(ExprPtr left, Not());
  while (IsName("and")) {
    const int line = Now().line;
    Skip();
    TG_ASSIGN_OR_RETURN(ExprPtr right, Not());
    TG_ASSIGN_OR_RETURN(left, Make(ExprKind::kAnd, line, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> Parser::Not() {
  const int line = Now().line;
  if (!TakeName("not")) return Compare();
  const Deeper deeper(depth_);
  TG_RETURN_IF_ERROR(CheckDepth());
  TG_ASSIGN_OR_RETURN(ExprPtr operand, Not());
  return Make(ExprKind::kNot, line, std::move(operand));
}

Result<ExprPtr> Parser::Compare() {
  static constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};
  const int line = Now().line;
  TG_ASSIGN_OR_RETURN(ExprPtr first, Sum());
  std::vector<ExprPtr> operands;
  operands.push_back(std::move(first));
  std::vector<std::string> operators;
  while (true) {
    const bool compares = Now().kind == TokenKind::kOperator &&
                          std::find(std::begin(kComparisons), std::end(kComparisons), Now().text) !=
                              std::end(kComparisons);
    if (compares) {
      operators.push_back(Now().text);
      Skip();
    } else if (TakeName("in")) {
      operators.emplace_back("in");
    } else if (IsName("not") && Next().kind == TokenKind::kName && Next().text == "in") {
      Skip();
      Skip();
      operators.emplace_back("not in");
    } else {
      break;
    }
    TG_ASSIGN_OR_RETURN(ExprPtr operand, Sum());
    operands.push_back(std::move(operand));
  }
  if (operators.empty()) return std::move(operands[0]);
  TG_ASSIGN_OR_RETURN(ExprPtr expr, Make(ExprKind::kCompare, line, std::move(operands)));
  expr->operators = std::move(operators);
  return expr;
}

Result<ExprPtr> Parser::Sum() {
  TG_ASSIGN_OR_RETURN(ExprPtr left, Concat());
  while (IsOperator("+") || IsOperator("-")) {
    const Token op = Now();
    Skip();
    TG_ASSIGN_OR_RETURN(ExprPtr right, Concat());
    TG_ASSIGN_OR_RETURN(
        left, Make(ExprKind::kBinary, op.line, std::move(left), std::move(right), op.text));
  }
  return left;
}

Result<ExprPtr> Parser::Concat() {
  TG_ASSIGN_OR_RETURN(ExprPtr left, Product());
  while (IsOperator("~")) {
    const int line = Now().line;
    Skip();
    TG_ASSIGN_OR_RETURN(ExprPtr right, Product());
    TG_ASSIGN_OR_RETURN(left,
                        Make(ExprKind::kBinary, line, std::move(left), std::move(right), "~"));
  }
  return left;
}

Result<ExprPtr> Parser::Product() {
  TG_ASSIGN_OR_RETURN(ExprPtr left, Unary(true));
  while (IsOperator("*") || IsOperator("//") || IsOperator("%")) {
    const Token op = Now();
    Skip();
    TG_ASSIGN_OR_RETURN(ExprPtr right, Unary(true));
    TG_ASSIGN_OR_RETURN(
        left, Make(ExprKind::kBinary, op.line, std::move(left), std::move(right), op.text));
  }
  if (IsOperator("/") || IsOperator("**")) {
    return NotBuilt(Now().line, fmt::format("the operator {}", Now().text));
  }
  return left;
}

Result<ExprPtr> Parser::Unary(bool with_filter) {
  const int line = Now().line;
  ExprPtr expr;
  if (TakeOperator("-")) {
    const Deeper deeper(depth_);
    TG_RETURN_IF_ERROR(CheckDepth());
    TG_ASSIGN_OR_RETURN(ExprPtr operand, Unary(false));
    TG_ASSIGN_OR_RETURN(expr, Make(ExprKind::kNegate, line, std::move(operand)));
  } else {
    TG_ASSIGN_OR_RETURN(expr, Primary());
  }
  TG_ASSIGN_OR_RETURN(expr, Postfix(std::move(expr)));
  return with_filter ? Filters(std::move(expr)) : Result<ExprPtr>(std::move(expr));
}

Result<ExprPtr> Parser::Primary() {
  const Token token = Now();
  const int line = token.line;
  switch (token.kind) {
    case TokenKind::kString: {
      std::string text;
      while (Now().kind == TokenKind::kString) {  // 'a' 'b' is 'ab'
        text += Now().text;
        Skip();
      }
      return Make(ExprKind::kText, line, std::vector<ExprPtr>(), std::move(text));
    }
    case TokenKind::kInteger:
      Skip();
      return Make(ExprKind::kNumber, line, std::vector<ExprPtr>(), "", token.number);
    case TokenKind::kName: {
      const std::string& name = token.text;
      const bool yes = name == "true" || name == "True";
      if (yes || name == "false" || name == "False") {
        Skip();
        return Make(ExprKind::kBoolean, line, std::vector<ExprPtr>(), "", yes ? 1 : 0);
      }
      if (name == "none" || name == "None") {
        Skip();
        return Make(ExprKind::kNone, line, std::vector<ExprPtr>());
      }
      TG_ASSIGN_OR_RETURN(std::string variable, ExpectName());
      return Make(ExprKind::kName, line, std::vector<ExprPtr>(), std::move(variable));
    }
    default:
      break;
  }
  if (TakeOperator("(")) return Bracketed(false, line);
  if (TakeOperator("[")) return Bracketed(true, line);
  if (IsOperator("{")) return NotBuilt(line, "a mapping in braces");
  return Unexpected("a value");
}

// A list, a tuple (which is a list here: templates only look into it), or an expression.
Result<ExprPtr> Parser::Bracketed(bool list, int line) {
  const std::string_view close = list ? "]" : ")";
  std::vector<ExprPtr> items;
  bool comma = false;
  while (!IsOperator(close)) {
    if (!items.empty() && !comma) return Unexpected(fmt::format("',' or '{}'", close));
    TG_ASSIGN_OR_RETURN(ExprPtr item, Expression());
    items.push_back(std::move(item));
    comma = TakeOperator(",");
  }
  Skip();
  if (!list && items.size() == 1 && !comma) return std::move(items[0]);
  return Make(ExprKind::kList, line, std::move(items));
}

Result<ExprPtr> Parser::Postfix(ExprPtr base) {
  while (true) {
    const int line = Now().line;
    if (TakeOperator(".")) {
      TG_ASSIGN_OR_RETURN(std::string name, ExpectName());
      TG_ASSIGN_OR_RETURN(
          base, Make(ExprKind::kAttribute, line, std::move(base), nullptr, std::move(name)));
    } else if (TakeOperator("[")) {
      TG_ASSIGN_OR_RETURN(base, Subscript(std::move(base), line));
    } else if (TakeOperator("(")) {
      TG_ASSIGN_OR_RETURN(base, Make(ExprKind::kCall, line, std::move(base)));
      TG_RETURN_IF_ERROR(Arguments(*base));
    } else {
      return base;
    }
  }
}

Result<ExprPtr> Parser::Subscript(ExprPtr base, int line) {
  std::vector<ExprPtr> children;
  children.push_back(std::move(base));
  bool slice = false;
  for (int part = 0; part < 3; ++part) {
    ExprPtr index;
    if (!IsOperator(":") && !IsOperator("]")) {
      TG_ASSIGN_OR_RETURN(index, Expression());
    }
    children.push_back(std::move(index));
    if (!TakeOperator(":")) break;
    slice = true;
  }
  if (!slice && children[1] == nullptr) return Unexpected("an index");
  if (IsOperator(",")) return NotBuilt(line, "an index of several parts");
  TG_RETURN_IF_ERROR(ExpectOperator("]"));
  if (slice) children.resize(4);
  return Make(slice ? ExprKind::kSlice : ExprKind::kIndex, line, std::move(children));
}

Result<ExprPtr> Parser::Filters(ExprPtr base) {
  while (true) {
    const int line = Now().line;
    if (TakeOperator("|")) {
      TG_ASSIGN_OR_RETURN(std::string name, ExpectName());
      if (IsOperator(".")) return NotBuilt(line, "a filter with a dotted name");
      TG_ASSIGN_OR_RETURN(base,
                          Make(ExprKind::kFilter, line, std::move(base), nullptr, std::move(name)));
      if (TakeOperator("(")) TG_RETURN_IF_ERROR(Arguments(*base));
    } else if (TakeName("is")) {
      TG_ASSIGN_OR_RETURN(base, Test(std::move(base), line));
    } else if (IsOperator("(")) {
      return NotBuilt(line, "calling what a filter or a test gives");
    } else {
      return base;
    }
  }
}

Result<ExprPtr> Parser::Test(ExprPtr base, int line) {
  const bool negated = TakeName("not");
  if (Now().kind != TokenKind::kName) return Unexpected("the name of a test");
  std::string name = Now().text;
  Skip();
  const bool word = Now().kind == TokenKind::kName && !IsName("and") && !IsName("or") &&
                    !IsName("else") && !IsName("if") && !IsName("is") && !IsName("in") &&
                    !IsName("not");
  if (word || IsOperator("(") || IsOperator("[") || Now().kind == TokenKind::kString ||
      Now().kind == TokenKind::kInteger) {
    return NotBuilt(line, fmt::format("an argument of the test '{}'", name.substr(0, 40)));
  }
  TG_ASSIGN_OR_RETURN(ExprPtr test,
                      Make(ExprKind::kTest, line, std::move(base), nullptr, std::move(name)));
  if (!negated) return test;
  return Make(ExprKind::kNot, line, std::move(test));
}

// After the "(": positional ones to the call's children, keywords to its keywords.
Status Parser::Arguments(Expr& call) {
  while (!TakeOperator(")")) {
    ExprPtr value;
    if (IsOperator("*") || IsOperator("**")) return NotBuilt(Now().line, "unpacking arguments");
    const bool keyword =
        Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator && Next().text == "=";
    std::string name;
    if (keyword) {
      TG_ASSIGN_OR_RETURN(name, ExpectName());
      Skip();  // =
    } else if (!call.keywords.empty()) {
      return Unexpected("a keyword argument");
    }
    TG_ASSIGN_OR_RETURN(value, Expression());
    call.depth = std::max(call.depth, value->depth + 1);
    if (call.depth > kMaxTemplateDepth) return TooDeep(call.line);
    if (keyword) {
      call.keywords.emplace_back(std::move(name), std::move(value));
    } else {
      call.children.push_back(std::move(value));
    }
    if (!IsOperator(")")) TG_RETURN_IF_ERROR(ExpectOperator(","));
  }
  return OkStatus();
}

}  // namespace

Result<Program> ParseProgram(std::string_view text, std::string_view what) {
  // Bounds memory before there are nodes to count. Real templates have 2 to 3 tokens a node.
  TG_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(text, what, 8 * kMaxTemplateNodes));
  return Parser(std::move(tokens), what).Run();
}

}  // namespace tidegate::model::chat
