// A program with one symbol of ours and no library of interest.
namespace tidegate::base {
[[gnu::used, gnu::noinline]] int Part() { return 1; }
}  // namespace tidegate::base

int main() { return 0; }
