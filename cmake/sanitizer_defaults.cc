// What the sanitizers do in every program of a sanitizer build. Compiled in, because the processes
// of a site inherit no environment. Only linked where TIDEGATE_SANITIZE is set.
extern "C" {

// Functions that a runtime looks for by name, declared by its header or nowhere.
const char* __asan_default_options();
const char* __ubsan_default_options();
const char* __tsan_default_options();
const char* __tsan_default_suppressions();

// No detect_stack_use_after_return: the stack it makes up gives vectors of 64 bytes 32-byte places,
// and the kernels' aligned loads fault.
const char* __asan_default_options() {
  return "detect_stack_use_after_return=0:check_initialization_order=1:strict_init_order=1";
}

const char* __ubsan_default_options() { return "print_stacktrace=1"; }

// Walled processes end by _exit(), which tells nobody of a race: the first report is the end.
const char* __tsan_default_options() { return "halt_on_error=1:atexit_sleep_ms=0"; }

// Debian's libzmq, and libsodium under it, are not instrumented: what their threads hand to each
// other looks like a race, and so does a message's buffer that libzmq's thread gives back to us.
// What our own code does with their messages is watched. Neither is libdnnl, whose cache of kernels
// ranks of a test share.
const char* __tsan_default_suppressions() {
  return "called_from_lib:libzmq.so\ncalled_from_lib:libsodium.so\nrace:transport/socket.cc\n"
         "race:libdnnl.so\n";
}

}  // extern "C"
