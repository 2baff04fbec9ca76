#include "mutate.h"

#include <algorithm>
#include <cctype>
#include <iterator>

#include "base/bytes.h"
#include "base/rng.h"

namespace tidegate::fuzz {
namespace {

constexpr size_t kMaxWords = 512;

// Numbers that a length, a count or a size should not be.
constexpr uint64_t kNumbers[] = {0,
                                 1,
                                 2,
                                 7,
                                 16,
                                 0x7f,
                                 0x80,
                                 0xff,
                                 0x100,
                                 0x7fff,
                                 0xffff,
                                 0x10000,
                                 0x100000,
                                 0x1000001,
                                 0x7fffffff,
                                 0x80000000,
                                 0xffffffff,
                                 0x100000000,
                                 0x4000000000000000,
                                 0x7fffffffffffffff,
                                 0x8000000000000000,
                                 0xfffffffffffffff0,
                                 0xffffffffffffffff};

constexpr const char* kWords[] = {"-1",
                                  "0",
                                  "1e308",
                                  "1e999",
                                  "-1e300",
                                  "0.1",
                                  "1e-320",
                                  "2147483648",
                                  "4294967296",
                                  "9223372036854775807",
                                  "9223372036854775808",
                                  "18446744073709551616",
                                  "1e19",
                                  "nan",
                                  "inf",
                                  "null",
                                  "true",
                                  "{}",
                                  "[]",
                                  "\"\"",
                                  "\"a\"",
                                  "[0,0]",
                                  "\\u0000",
                                  "\\ud800",
                                  "\xed\xa0\x80",
                                  "\xf0\x9f\x98\x80",
                                  "\xc3\xa9",
                                  "e\xcc\x81",
                                  "\xff",
                                  "../",
                                  "\r\n",
                                  "\n",
                                  " ",
                                  "%",
                                  "{{",
                                  "{%",
                                  "-%}",
                                  "(?:a+)+$"};

// Random numbers of one input.
class Dice {
 public:
  explicit Dice(uint64_t i) : i_(i) {}
  uint32_t Word() {
    if (at_ == 4) {
      words_ = RandomWords(0x66757a7a, RngPurpose::kTest, step_++, i_);
      at_ = 0;
    }
    return words_[at_++];
  }
  // 0 … bound − 1, 0 for no bound.
  size_t Below(size_t bound) {
    return UniformBelow(Word(), static_cast<uint32_t>(std::min<size_t>(bound, UINT32_MAX)));
  }
  // Small more often than large: 1 … most.
  size_t Length(size_t most) {
    return most == 0 ? 0 : 1 + Below(std::min(most, size_t{1} << Below(11)));
  }

 private:
  uint64_t i_;
  uint32_t step_ = 0;
  size_t at_ = 4;
  std::array<uint32_t, 4> words_{};
};

void OverwriteNumber(Dice& dice, std::string* s) {
  const size_t width = size_t{1} << dice.Below(4);
  if (s->size() < width) return;
  const size_t at = dice.Below(s->size() - width + 1);
  uint64_t value = kNumbers[dice.Below(std::size(kNumbers))];
  switch (dice.Below(4)) {
    case 0:
      value = s->size() - at;
      break;
    case 1:
      value = s->size() - at - width + dice.Below(3) - 1;
      break;
    default:
      break;
  }
  uint8_t bytes[8];
  StoreLe64(bytes, value);
  std::copy_n(bytes, width, s->begin() + static_cast<std::ptrdiff_t>(at));
}

// A run of digits becomes another number.
void ReplaceDigits(Dice& dice, std::string* s) {
  const size_t from = dice.Below(s->size() + 1);
  const auto is_digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  const auto first =
      std::find_if(s->begin() + static_cast<std::ptrdiff_t>(from), s->end(), is_digit);
  const auto last = std::find_if_not(first, s->end(), is_digit);
  if (first == s->end()) return;
  const size_t at = static_cast<size_t>(first - s->begin());
  s->replace(
      at, static_cast<size_t>(last - first),
      dice.Below(3) == 0 ? std::to_string(dice.Word() >> dice.Below(32)) : kWords[dice.Below(15)]);
}

void MoveRange(Dice& dice, std::string* s) {
  const size_t from = dice.Below(s->size());
  const std::string piece = s->substr(from, dice.Length(s->size() - from));
  if (dice.Below(2) == 0) s->erase(from, piece.size());
  s->insert(dice.Below(s->size() + 1), piece);
}

void Nest(Dice& dice, std::string* s) {
  static constexpr std::string_view kOpen = "[{(\"'<- ~";
  const std::string run(dice.Length(1000), kOpen[dice.Below(kOpen.size())]);
  s->insert(dice.Below(s->size() + 1), run);
}

}  // namespace

Mutator::Mutator(std::vector<std::string> seeds) : seeds_(std::move(seeds)) {
  std::vector<std::string> found;
  for (const std::string& seed : seeds_) {
    std::string word;
    for (const char c : seed + " ") {
      if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-') {
        word.push_back(c);
        continue;
      }
      if (word.size() >= 2 && word.size() <= 40) found.push_back(word);
      word.clear();
    }
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  // Evenly from all over where there are too many, as in vocabularies.
  const size_t step = 1 + found.size() / kMaxWords;
  for (size_t i = 0; i < found.size(); i += step) words_.push_back(found[i]);
  words_.insert(words_.end(), std::begin(kWords), std::end(kWords));
}

std::string Mutator::Input(uint64_t i) const {
  Dice dice(i);
  std::string s = seeds_[i % seeds_.size()];
  const size_t most = 2 * s.size() + 4096;
  for (size_t steps = 1 + std::min(dice.Below(5), dice.Below(5)); steps > 0; --steps) {
    if (s.empty()) s = std::string(1 + dice.Below(64), static_cast<char>(dice.Word()));
    const size_t at = dice.Below(s.size());
    switch (dice.Below(13)) {
      case 0:
        s[at] = static_cast<char>(s[at] ^ (1 << dice.Below(8)));
        break;
      case 1:
        s[at] = static_cast<char>(dice.Word());
        break;
      case 2:
        s.erase(at, dice.Length(s.size() - at));
        break;
      case 3:
        s.resize(at);
        break;
      case 4:
        s.insert(at, std::string(dice.Length(64), static_cast<char>(dice.Word())));
        break;
      case 5:
      case 6:
        OverwriteNumber(dice, &s);
        break;
      case 7:
        ReplaceDigits(dice, &s);
        break;
      case 8:
        MoveRange(dice, &s);
        break;
      case 9: {
        const std::string& other = seeds_[dice.Below(seeds_.size())];
        s.resize(at);
        s += std::string_view(other).substr(dice.Below(other.size() + 1));
        break;
      }
      case 10:
        s.insert(at, words_[dice.Below(words_.size())]);
        break;
      case 11: {
        const std::string& word = words_[dice.Below(words_.size())];
        s.replace(at, std::min(word.size(), s.size() - at), word);
        break;
      }
      default:
        Nest(dice, &s);
    }
    if (s.size() > most) s.resize(most);
  }
  return s;
}

}  // namespace tidegate::fuzz
