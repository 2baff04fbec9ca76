/* A model that answers, from C. usage: model_abi_test BASE; the programs are in TIDEGATE_PROGRAMS.
 * A shell plays the model's process where it is to be at a certain point. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <tidegate/tidegate.h>

#define EXPECT(what)                                                   \
  do {                                                                 \
    if (!(what)) {                                                     \
      fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #what); \
      return 1;                                                        \
    }                                                                  \
  } while (0)

typedef struct text {
  char all[8192];
  int pieces, ends;
} text;

static int32_t append(const tg_answer_event* event, void* user) {
  text* to = user;
  if (event->kind == TG_ANSWER_END) {
    ++to->ends;
  } else {
    ++to->pieces;
    strncat(to->all, event->text, sizeof(to->all) - strlen(to->all) - 1);
  }
  return 0;
}

static int32_t first_name(const char* name, void* user) {
  strncat(user, name, 60);
  strcat(user, " ");
  return 0;
}

/* As JSON has it. */
static void quote(const char* text, char* to) {
  const char* const escaped = "\b\f\n\r\t\"\\";
  *to++ = '"';
  for (; *text != '\0'; ++text) {
    const char* at = strchr(escaped, *text);
    if (at != NULL) {
      *to++ = '\\', *to++ = "bfnrt\"\\"[at - escaped];
    } else if ((unsigned char)*text < 0x20) {
      to += sprintf(to, "\\u%04x", *text);
    } else {
      *to++ = *text;
    }
  }
  strcpy(to, "\"");
}

static int answers_as_generate_does(const char* base) {
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_call, call);
  call.deadline_millis = 60000;
  char adapter[1024];
  snprintf(adapter, sizeof(adapter), "tuned=%s/adapter_in", base);
  const char* adapters[] = {adapter};
  TG_STRUCT(tg_model_options, options);
  options.base = base;
  options.dtype = "f32";
  options.threads = 1;
  options.adapters = adapters;
  options.adapter_count = 1;
  tg_model* model = NULL;
  const int32_t opened = tg_model_open(&options, &call, &model, &error);
  if (opened == TG_PERMISSION_DENIED && strstr(error.message, "wall") != NULL) {
    fprintf(stderr, "SKIPPED: this machine cannot raise the walls of a trainer: %s\n", error.message);
    return 0;
  }
  EXPECT(opened == TG_OK);
  char names[256] = "";
  EXPECT(tg_model_list(model, first_name, names, &error) == TG_OK);
  EXPECT(strcmp(names, "tiny_llama tuned ") == 0);

  TG_STRUCT(tg_question, question);
  question.text = "where is crate 2?";
  question.max_new_tokens = 24;
  question.model = "tuned";
  tg_answer* answer = NULL;
  EXPECT(tg_model_ask(model, &question, &answer, &error) == TG_OK);
  text whole = {"", 0, 0};
  EXPECT(tg_answer_run(answer, &call, append, &whole, &error) == TG_OK);
  EXPECT(whole.pieces > 1 && whole.ends == 1);
  TG_STRUCT(tg_answer_event, event);
  EXPECT(tg_answer_next(answer, &call, &event, &error) == TG_FAILED_PRECONDITION);
  tg_answer_close(answer);

  const char* words[] = {"generate", "--base", base, "--adapter", adapter + strlen("tuned="), "--raw", "--prompt",
                         question.text, "--dtype", "f32", "--max_new_tokens", "24"};
  tg_text* generated = NULL;
  EXPECT(tg_run_tidegate(words, sizeof(words) / sizeof(words[0]), &call, &generated, &error) == TG_OK);
  char quoted[6 * sizeof(whole.all) + 3];
  quote(whole.all, quoted);
  EXPECT(strstr(tg_text_data(generated), quoted) != NULL);
  tg_text_free(generated);

  question.model = "nobody";
  EXPECT(tg_model_ask(model, &question, &answer, &error) == TG_NOT_FOUND);
  EXPECT(strstr(error.message, "nobody") != NULL && strstr(error.message, "tuned") != NULL);
  tg_model_close(model);
  return 0;
}

static int refuses_what_is_none(void) {
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_call, call);
  TG_STRUCT(tg_model_options, options);
  tg_model* model = NULL;
  EXPECT(tg_model_open(&options, NULL, &model, &error) == TG_INVALID_ARGUMENT);
  options.base = "/there/is/no/base";
  call.deadline_millis = 60000;
  EXPECT(tg_model_open(&options, &call, &model, &error) == TG_NOT_FOUND);
  EXPECT(strstr(error.message, "/there/is/no/base") != NULL);
  options.load_in_bits = 3;
  EXPECT(tg_model_open(&options, &call, &model, &error) == TG_INVALID_ARGUMENT);
  options.load_in_bits = 0;
  options.trainer = "/bin/cat"; /* fails at its flags */
  EXPECT(tg_model_open(&options, &call, &model, &error) == TG_INVALID_ARGUMENT);
  EXPECT(strstr(error.message, "cat --help") != NULL);
  tg_model_close(NULL), tg_answer_close(NULL);
  return 0;
}

/* A program that is ready, says a piece of the first answer, and goes on at the next line it reads. */
static int write_player(char* path, const char* then) {
  strcpy(path, "/tmp/tidegate-player-XXXXXX");
  const int fd = mkstemp(path);
  EXPECT(fd >= 0);
  dprintf(fd,
          "#!/bin/sh\n"
          "echo '{\"event\":\"ready\",\"models\":[\"m\"],\"walls\":\"none\"}'\n"
          "read line\n"
          "echo '{\"event\":\"text\",\"id\":1,\"text\":\"hello\"}'\n"
          "%s\n",
          then);
  EXPECT(fchmod(fd, 0700) == 0);
  close(fd);
  return 0;
}

static int open_played(const char* then, tg_model** model, tg_answer** answer) {
  char path[64];
  if (write_player(path, then) != 0) return 1;
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_model_options, options);
  options.base = "m";
  options.trainer = path;
  EXPECT(tg_model_open(&options, NULL, model, &error) == TG_OK);
  unlink(path);
  TG_STRUCT(tg_question, question);
  EXPECT(tg_model_ask(*model, &question, answer, &error) == TG_INVALID_ARGUMENT);
  question.text = "go on";
  question.temperature = NAN;
  EXPECT(tg_model_ask(*model, &question, answer, &error) == TG_INVALID_ARGUMENT);
  question.temperature = 0;
  const char* stop[] = {""};
  question.stop = stop;
  question.stop_count = 1; /* would end the process: it does not get there */
  EXPECT(tg_model_ask(*model, &question, answer, &error) == TG_INVALID_ARGUMENT);
  question.stop_count = 0;
  EXPECT(tg_model_ask(*model, &question, answer, &error) == TG_OK);
  TG_STRUCT(tg_answer_event, event);
  EXPECT(tg_answer_next(*answer, NULL, &event, &error) == TG_OK);
  EXPECT(event.kind == TG_ANSWER_TEXT && strcmp(event.text, "hello") == 0);
  return 0;
}

static int ends_by_deadline_by_cancel_and_when_taken_back(void) {
  tg_model* model = NULL;
  tg_answer* answer = NULL;
  if (open_played("read line\necho '{\"event\":\"end\",\"id\":1,\"reason\":\"cancelled\",\"new_tokens\":1}'\nread line",
                  &model, &answer) != 0) {
    return 1;
  }
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_call, call);
  TG_STRUCT(tg_answer_event, event);
  call.deadline_millis = 20;
  EXPECT(tg_answer_next(answer, &call, &event, &error) == TG_DEADLINE_EXCEEDED);
  call.deadline_millis = -1;
  call.cancel = tg_cancel_new();
  tg_cancel_now(call.cancel);
  EXPECT(tg_answer_next(answer, &call, &event, &error) == TG_CANCELLED);
  tg_cancel_free(call.cancel);
  EXPECT(tg_answer_cancel(answer, &error) == TG_OK);
  EXPECT(tg_answer_next(answer, NULL, &event, &error) == TG_OK);
  EXPECT(event.kind == TG_ANSWER_END && strcmp(event.text, "cancelled") == 0 && event.new_tokens == 1);
  tg_model_close(model);
  tg_answer_close(answer); /* later than its model */
  return 0;
}

static int tells_that_the_process_is_gone(void) {
  tg_model* model = NULL;
  tg_answer* answer = NULL;
  if (open_played("echo 'ran into a wall' >&2; kill -9 $$", &model, &answer) != 0) return 1;
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_answer_event, event);
  EXPECT(tg_answer_next(answer, NULL, &event, &error) == TG_UNAVAILABLE);
  EXPECT(strstr(error.message, "ran into a wall") != NULL);
  tg_answer* other = NULL;
  TG_STRUCT(tg_question, question);
  question.text = "again";
  EXPECT(tg_model_ask(model, &question, &other, &error) == TG_UNAVAILABLE);
  tg_answer_close(answer);
  tg_model_close(model);
  /* Closed in the middle of an answer: it says so, and nobody waits. */
  if (open_played("exec sleep 60", &model, &answer) != 0) return 1;
  tg_model_close(model);
  EXPECT(tg_answer_next(answer, NULL, &event, &error) == TG_UNAVAILABLE);
  EXPECT(tg_answer_cancel(answer, &error) == TG_OK);
  tg_answer_close(answer);
  return 0;
}

static int opening_is_cancelled(void) {
  char path[64];
  if (write_player(path, "") != 0) return 1;
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_call, call);
  TG_STRUCT(tg_model_options, options);
  tg_model* model = NULL;
  options.base = "m";
  options.trainer = path;
  FILE* player = fopen(path, "w");
  EXPECT(player != NULL);
  fputs("#!/bin/sh\nexec sleep 60\n", player);
  fclose(player);
  call.deadline_millis = 20;
  EXPECT(tg_model_open(&options, &call, &model, &error) == TG_DEADLINE_EXCEEDED);
  call.deadline_millis = -1;
  call.cancel = tg_cancel_new();
  tg_cancel_now(call.cancel);
  EXPECT(tg_model_open(&options, &call, &model, &error) == TG_CANCELLED);
  tg_cancel_free(call.cancel);
  unlink(path);
  return 0;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  return refuses_what_is_none() || answers_as_generate_does(argv[1]) ||
         ends_by_deadline_by_cancel_and_when_taken_back() || tells_that_the_process_is_gone() ||
         opening_is_cancelled();
}
