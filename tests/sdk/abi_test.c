/* The C ABI from C: what it refuses, how it says so, and that nobody is needed for that. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <tidegate/tidegate.h>

#define EXPECT(what)                                                   \
  do {                                                                 \
    if (!(what)) {                                                     \
      fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #what); \
      return 1;                                                        \
    }                                                                  \
  } while (0)

static int refuses_what_is_none(void) {
  TG_STRUCT(tg_error, error);
  tg_site* site = NULL;
  EXPECT(tg_site_connect(NULL, NULL, &site, &error) == TG_INVALID_ARGUMENT);
  EXPECT(strstr(error.message, "path") != NULL);
  EXPECT(tg_site_connect("/nobody/listens/here.sock", NULL, &site, &error) == TG_UNAVAILABLE);
  EXPECT(error.code == TG_UNAVAILABLE && strstr(error.message, "tidegate-onshore") != NULL);
  EXPECT(tg_site_connect("/nobody", NULL, NULL, NULL) == TG_INTERNAL); /* no room for the handle */
  EXPECT(tg_site_pause(NULL, NULL, &error) == TG_INTERNAL);
  tg_coordinator* coordinator = NULL;
  EXPECT(tg_coordinator_open("/nobody", &coordinator, &error) == TG_NOT_FOUND);
  TG_STRUCT(tg_job_spec, spec);
  tg_job* job = NULL;
  spec.verb = 99;
  EXPECT(tg_job_start(NULL, &spec, NULL, &job, &error) == TG_INVALID_ARGUMENT);
  spec.verb = TG_VERB_EVAL;
  EXPECT(tg_job_start(NULL, &spec, NULL, &job, &error) == TG_UNSUPPORTED);
  spec.struct_size = 0;
  EXPECT(tg_job_start(NULL, &spec, NULL, &job, &error) == TG_INVALID_ARGUMENT);
  EXPECT(strstr(error.message, "struct_size") != NULL);
  tg_site_close(NULL), tg_job_close(NULL), tg_watch_close(NULL), tg_rounds_close(NULL);
  tg_coordinator_close(NULL), tg_text_free(NULL), tg_cancel_free(NULL);
  return 0;
}

/* A program of an earlier version has a shorter struct: nothing behind it is written. */
static int writes_no_more_than_there_is(void) {
  struct {
    tg_error error;
    char behind[8];
  } room;
  memset(&room, 'x', sizeof(room));
  room.error.struct_size = offsetof(tg_error, message) + 16;
  EXPECT(tg_site_connect("/nobody/listens/here.sock", NULL, &(tg_site*){NULL}, &room.error) ==
         TG_UNAVAILABLE);
  EXPECT(strlen(room.error.message) == 15 && room.error.message[16] == 'x');
  return 0;
}

static void* cancel_soon(void* cancel) {
  tg_cancel_now(cancel);
  return NULL;
}

/* A site that accepts and says nothing. */
static int ends_by_deadline_and_by_cancel(void) {
  char dir[] = "/tmp/tidegate-abi-XXXXXX";
  EXPECT(mkdtemp(dir) != NULL);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof(address.sun_path), "%s/api.sock", dir);
  const int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  EXPECT(bind(listener, (struct sockaddr*)&address, sizeof(address)) == 0);
  EXPECT(listen(listener, 4) == 0);
  TG_STRUCT(tg_call, call);
  TG_STRUCT(tg_error, error);
  tg_site* site = NULL;
  call.deadline_millis = 30;
  EXPECT(tg_site_connect(dir, &call, &site, &error) == TG_DEADLINE_EXCEEDED);
  call.deadline_millis = -1;
  call.cancel = tg_cancel_new();
  pthread_t other;
  EXPECT(pthread_create(&other, NULL, cancel_soon, call.cancel) == 0);
  EXPECT(tg_site_connect(dir, &call, &site, &error) == TG_CANCELLED);
  pthread_join(other, NULL);
  tg_cancel_free(call.cancel);
  close(listener);
  unlink(address.sun_path);
  rmdir(dir);
  return 0;
}

int main(void) {
  if (tg_abi_version() != TG_ABI_VERSION) return 2;
  if (strcmp(tg_code_name(TG_NOT_FOUND), "NOT_FOUND") != 0) return 2;
  return refuses_what_is_none() || writes_no_more_than_there_is() ||
         ends_by_deadline_and_by_cancel();
}
