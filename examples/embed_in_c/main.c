/* A C program that looks at a site, and tells what happens there until a job has ended.
 *
 * usage: embed_in_c SITE [SECONDS]     SITE: a site's folder; SECONDS: how long to wait, 0 for the status alone
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <tidegate/tidegate.h>

static int32_t print_event(const tg_event* event, void* user) {
  char text[256];
  (void)user;
  tg_event_text(event, text, sizeof(text));
  printf("%" PRIu64 " %s\n", event->sequence, text);
  return event->code == TG_EVENT_JOB_ENDED;
}

static int32_t print_adapter(const tg_adapter* adapter, void* user) {
  (void)user;
  printf("adapter %s, %" PRIu64 " bytes\n", adapter->name, adapter->bytes);
  return 0;
}

static int fail(const tg_error* error) {
  fprintf(stderr, "%s: %s\n", tg_code_name(error->code), error->message);
  return error->code;
}

int main(int argc, char** argv) {
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_site_status, status);
  TG_STRUCT(tg_call, call);
  tg_site* site = NULL;
  tg_watch* watch = NULL;
  int code = 0;
  if (argc < 2) {
    fprintf(stderr, "usage: embed_in_c SITE [SECONDS]\n");
    return 64;
  }
  if (tg_site_connect(argv[1], NULL, &site, &error) != TG_OK) return fail(&error);
  if (tg_site_get_status(site, NULL, &status, &error) != TG_OK ||
      tg_site_list_adapters(site, NULL, print_adapter, NULL, &error) != TG_OK) {
    code = fail(&error);
  } else {
    printf("site %s: %s, job %s, round %" PRId64 "\n", status.site,
           status.connected ? "connected" : "not connected",
           status.job[0] != '\0' ? status.job_name : "none", status.round);
  }
  const int seconds = argc > 2 ? atoi(argv[2]) : 0;
  if (code == 0 && seconds > 0) {
    call.deadline_millis = 1000 * seconds;
    if (tg_watch_open(site, 0, 0, NULL, &watch, &error) != TG_OK ||
        tg_watch_run(watch, &call, print_event, NULL, &error) != TG_OK) {
      code = fail(&error);
    }
  }
  tg_watch_close(watch);
  tg_site_close(site);
  return code;
}
