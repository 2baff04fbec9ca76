// What no process may be: something of every module, and every library. processes_test.py holds
// the rules against it.
#include <sqlite3.h>
#include <zmq.h>

#include <cstdio>

// Never inlined and never left out.
#define PART(module)                                                     \
  namespace tidegate::module {                                           \
  [[gnu::used, gnu::noinline]] int Part() { return std::puts(#module); } \
  }

PART(records)
PART(finetune)
PART(train)
PART(model)
PART(tensor)
PART(tokens)
PART(kernels)
PART(transport)
PART(gate)
PART(permit)
PART(offshore)
PART(onshore)
PART(crypto)
PART(cli)

int main(int argc, char**) {
  if (argc == 1) return 0;
  return sqlite3_libversion_number() + (zmq_ctx_new() != nullptr ? 1 : 0);
}
