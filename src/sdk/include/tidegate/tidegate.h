/* The C ABI of Tidegate: what a client's own program asks of a site (tidegate-onshore), of a
 * coordinator on the same machine, and of the command-line programs. docs/sdk.md.
 *
 * Handles are opaque. Every function that can fail returns a code (TG_OK is 0) and, where it is
 * given one, fills a tg_error with a sentence that names the thing, the limit and the remedy. No
 * exception leaves the library, and no signal handler or global state of the process is touched
 * (SIGPIPE included). It has no thread but one of each tg_model, which takes no signals.
 *
 * Structs begin with struct_size, which the caller sets (TG_STRUCT does): a later version may add
 * members at the end, and the library never reads or writes beyond what the caller has. Texts are
 * UTF-8 and end with a zero.
 *
 * Threads: any thread may use any handle. Calls of one handle wait for each other, within the
 * call's deadline; tg_cancel_now may be called while another thread waits, and is how that thread
 * is ended. A handle is closed once, when no call of it is under way.
 *
 * Callbacks run in the calling thread; a return other than 0 ends the call with TG_OK. They must
 * not use the handle that calls them.
 */
#ifndef TIDEGATE_TIDEGATE_H_
#define TIDEGATE_TIDEGATE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TG_API __attribute__((visibility("default")))
#else
#define TG_API
#endif

/* Raised when a program that was built against an earlier header would not work any more. */
#define TG_ABI_VERSION 1u
TG_API uint32_t tg_abi_version(void);
TG_API const char* tg_version(void); /* "0.1.0" */

/* Codes: those of docs/exit-codes.md. */
enum {
  TG_OK = 0,
  TG_INVALID_ARGUMENT = 1,
  TG_NOT_FOUND = 2,
  TG_ALREADY_EXISTS = 3,
  TG_FAILED_PRECONDITION = 4,
  TG_RESOURCE_EXHAUSTED = 5,
  TG_PERMISSION_DENIED = 6,
  TG_UNAUTHENTICATED = 7,
  TG_DATA_LOSS = 8,
  TG_UNAVAILABLE = 9,
  TG_DEADLINE_EXCEEDED = 10,
  TG_CANCELLED = 11,
  TG_UNSUPPORTED = 12,
  TG_INTERNAL = 13
};
TG_API const char* tg_code_name(int32_t code); /* "NOT_FOUND" */

/* A struct of this type, zero but for its size. */
#ifdef __cplusplus
#define TG_STRUCT(type, name) \
  type name{};                \
  name.struct_size = sizeof(type)
#else
#define TG_STRUCT(type, name) type name = {.struct_size = sizeof(type)}
#endif

typedef struct tg_error {
  uint32_t struct_size;
  int32_t code;
  char message[1016]; /* cut where it is longer */
} tg_error;

/* Ends calls of other threads. One may serve any number of calls; once cancelled it stays so. */
typedef struct tg_cancel tg_cancel;
TG_API tg_cancel* tg_cancel_new(void); /* NULL when the system has no descriptor left */
TG_API void tg_cancel_now(tg_cancel* cancel);
TG_API void tg_cancel_free(tg_cancel* cancel);

/* Of one call; NULL stands for ten seconds and no cancellation. */
typedef struct tg_call {
  uint32_t struct_size;
  int32_t deadline_millis; /* 0: ten seconds; below 0: none */
  tg_cancel* cancel;       /* NULL: none */
} tg_call;

/* A text that the library made. */
typedef struct tg_text tg_text;
TG_API const char* tg_text_data(const tg_text* text);
TG_API size_t tg_text_size(const tg_text* text);
TG_API void tg_text_free(tg_text* text);

/* ---- a site: tidegate-onshore on this machine -------------------------------------------------
 */
typedef struct tg_site tg_site;

/* `path`: the site's folder, or its socket. */
TG_API int32_t tg_site_connect(const char* path, const tg_call* call, tg_site** out,
                               tg_error* error);
TG_API void tg_site_close(tg_site* site);

typedef struct tg_site_status {
  uint32_t struct_size;
  uint32_t uid; /* ours, as the kernel told the site */
  char site[64];
  char version[64];
  char job[40]; /* the federated job's id in hex; empty: none */
  char job_name[64];
  uint32_t job_rounds;
  uint32_t job_ended;
  int64_t round;           /* -1: none */
  int64_t adapter_version; /* -1: none */
  int64_t held_round;      /* of the update that waits for people; -1: none */
  double train_loss;       /* the last ones; below 0: none */
  double heldout_loss;
  uint32_t connected;    /* to the coordinator */
  uint32_t holds;        /* why the trainer does not run: a bit each, TG_HOLD_... */
  uint32_t open_exports; /* without a receipt */
  uint32_t local_jobs;
  uint64_t spool_bytes;
  uint64_t epoch; /* of this run of the site; tg_watch_open */
  uint64_t last_event;
  int64_t started_unix_millis;
} tg_site_status;
enum {
  TG_HOLD_PAUSED = 1,
  TG_HOLD_JOB_STOPPED = 2,
  TG_HOLD_COORDINATOR_LOST = 4,
  TG_HOLD_DATASET_GONE = 8,
  TG_HOLD_DATASET_REFUSED = 16
};
TG_API int32_t tg_site_get_status(tg_site* site, const tg_call* call, tg_site_status* out,
                                  tg_error* error);

/* Of the site's own training; the trainer ends after the optimizer step at hand. */
TG_API int32_t tg_site_pause(tg_site* site, const tg_call* call, tg_error* error);
TG_API int32_t tg_site_resume(tg_site* site, const tg_call* call, tg_error* error);
/* A pause for the federated job of now. */
TG_API int32_t tg_site_stop_job(tg_site* site, const tg_call* call, tg_error* error);
/* Ends tidegate-onshore. */
TG_API int32_t tg_site_shutdown(tg_site* site, const tg_call* call, tg_error* error);

/* What federated jobs train on. The site never reads more of a dataset than this for a client;
 * tg_job_start with TG_VERB_DATA_CHECK counts what is in it. */
enum { TG_DATASET_RECORDS = 0, TG_DATASET_HELDOUT = 1 };
enum { TG_SOURCE_SITE = 0, TG_SOURCE_PATH = 1, TG_SOURCE_HANDED_OVER = 2, TG_SOURCE_GONE = 3 };
typedef struct tg_dataset {
  uint32_t struct_size;
  uint32_t dataset; /* TG_DATASET_... */
  uint32_t source;  /* TG_SOURCE_...: site.toml, a path, a descriptor, one that is gone */
  uint32_t reserved;
  uint64_t bytes; /* of one that was handed over; else of the file, where it can be looked at */
  char path[4096];
} tg_dataset;
typedef int32_t (*tg_dataset_fn)(const tg_dataset* dataset, void* user);
TG_API int32_t tg_site_list_datasets(tg_site* site, const tg_call* call, tg_dataset_fn each,
                                     void* user, tg_error* error);
/* `hand_over` 1: opened here and given as a descriptor, so that the site needs no right to it; 0:
 * by its absolute path, which the site's trainer must be able to read. */
TG_API int32_t tg_site_set_dataset(tg_site* site, uint32_t dataset, const char* path,
                                   int32_t hand_over, const tg_call* call, tg_error* error);
/* Those of site.toml again. */
TG_API int32_t tg_site_reset_dataset(tg_site* site, uint32_t dataset, const tg_call* call,
                                     tg_error* error);

/* ---- events ---------------------------------------------------------------------------------- */
enum {
  TG_EVENT_JOB_ACCEPTED = 1,
  TG_EVENT_JOB_REFUSED = 2,
  TG_EVENT_ROUND_STARTED = 3,   /* round, adapter version */
  TG_EVENT_UPDATE_RELEASED = 4, /* round, bytes, ledger index */
  TG_EVENT_UPDATE_REFUSED = 5,  /* round, rule */
  TG_EVENT_RECEIPT_STORED = 6,  /* round, outcome */
  TG_EVENT_ADAPTER_STORED = 7,  /* version */
  TG_EVENT_CONNECTED = 8,
  TG_EVENT_DISCONNECTED = 9,
  TG_EVENT_TRAINED = 10,        /* round, steps, loss in thousandths */
  TG_EVENT_EVALUATED = 11,      /* version, held-out loss before and after in thousandths, kept */
  TG_EVENT_UPDATE_HELD = 15,    /* round, bytes */
  TG_EVENT_DECISION_HEARD = 18, /* round, uid, decision, whether it counts */
  TG_EVENT_JOB_ENDED = 105,     /* version */
  TG_EVENT_TRAINING_HELD = 107, /* which */
  TG_EVENT_TRAINING_GOES_ON = 108,
  TG_EVENT_OUTSIDE_BEGAN = 113, /* uid */
  TG_EVENT_OUTSIDE_ENDED = 114  /* uid */
};
typedef struct tg_event {
  uint32_t struct_size;
  uint32_t code;   /* TG_EVENT_... and others: tg_event_text has words for all */
  uint32_t source; /* 0 gate, 1 link, 2 trainer, 3 the supervisor */
  uint32_t reserved;
  uint64_t sequence;
  uint64_t lost; /* events before it that this watch came too late for */
  int64_t unix_millis;
  int64_t arguments[4];
} tg_event;
/* "update_released round=3 bytes=4912345 ledger_index=17". Returns its length without the zero;
 * what does not fit is cut. */
TG_API size_t tg_event_text(const tg_event* event, char* buffer, size_t size);

typedef struct tg_watch tg_watch;
/* A connection of its own. Events after `after` of this `epoch`; with 0 and 0 all that are kept,
 * with after UINT64_MAX those to come. */
TG_API int32_t tg_watch_open(tg_site* site, uint64_t epoch, uint64_t after, const tg_call* call,
                             tg_watch** out, tg_error* error);
TG_API int32_t tg_watch_next(tg_watch* watch, const tg_call* call, tg_event* out, tg_error* error);
typedef int32_t (*tg_event_fn)(const tg_event* event, void* user);
/* Until `each` says so, or with an error. */
TG_API int32_t tg_watch_run(tg_watch* watch, const tg_call* call, tg_event_fn each, void* user,
                            tg_error* error);
TG_API void tg_watch_close(tg_watch* watch);

/* ---- local jobs ------------------------------------------------------------------------------ */
enum { TG_VERB_FINETUNE = 0, TG_VERB_EVAL = 1, TG_VERB_GENERATE = 2, TG_VERB_DATA_CHECK = 3 };
typedef struct tg_job_spec {
  uint32_t struct_size;
  uint32_t verb;         /* TG_VERB_... */
  const char* flags;     /* TOML, as `tidegate finetune --config` has it: the keys are flags */
  const char* data;      /* a file that is handed over as --data; NULL: the flags name it */
  const char* eval_data; /* finetune: the same for --eval_data */
} tg_job_spec;
typedef struct tg_job tg_job;
/* Behind the site's walls, results in SITE/local; a connection of its own. Without a site (NULL):
 * `tidegate finetune` beside this library or in the PATH, as the calling user, behind the same
 * walls; output_dir is any folder then. Closing the job stops it. */
TG_API int32_t tg_job_start(tg_site* site, const tg_job_spec* spec, const tg_call* call,
                            tg_job** out, tg_error* error);
enum {
  TG_JOB_LINE = 1,   /* a line for people: `text` */
  TG_JOB_STEP = 2,   /* step, total_steps, loss, learning_rate, tokens_per_second */
  TG_JOB_EVAL = 3,   /* step, heldout_loss */
  TG_JOB_OUTPUT = 4, /* standard output as it came: `text`; of finetune the result, one JSON text */
  TG_JOB_ENDED = 5   /* exit_code, signal; `text`: the last error, if it said one */
};
typedef struct tg_job_event {
  uint32_t struct_size;
  uint32_t kind; /* TG_JOB_... */
  int64_t step;
  int64_t total_steps;
  double loss;
  double learning_rate;
  double tokens_per_second;
  double heldout_loss;
  int32_t exit_code; /* a code of this header, or 64: the flags are wrong */
  int32_t signal;
  const char* text; /* until the next call of the job */
  size_t text_size;
} tg_job_event;
/* After TG_JOB_ENDED: TG_FAILED_PRECONDITION. */
TG_API int32_t tg_job_next(tg_job* job, const tg_call* call, tg_job_event* out, tg_error* error);
typedef int32_t (*tg_job_fn)(const tg_job_event* event, void* user);
/* Until its end, which `each` (may be NULL) hears too. The job's own error is the call's. */
TG_API int32_t tg_job_run(tg_job* job, const tg_call* call, tg_job_fn each, void* user,
                          tg_error* error);
/* In good order: a finetune saves its state; `resume = true` goes on. The end comes by next. May be
 * called while another thread waits in tg_job_next. */
TG_API int32_t tg_job_stop(tg_job* job, tg_error* error);
TG_API void tg_job_close(tg_job* job);

/* ---- adapters -------------------------------------------------------------------------------- */
enum { TG_ADAPTER_KEPT = 0, TG_ADAPTER_LOCAL = 1 };
typedef struct tg_adapter {
  uint32_t struct_size;
  uint32_t kind;  /* kept: the best shared one on held-out records; local: of a local job */
  char name[64];  /* "kept", or the NAME of SITE/local/NAME */
  uint64_t bytes; /* of its weights */
  int64_t unix_millis;
} tg_adapter;
typedef int32_t (*tg_adapter_fn)(const tg_adapter* adapter, void* user);
TG_API int32_t tg_site_list_adapters(tg_site* site, const tg_call* call, tg_adapter_fn each,
                                     void* user, tg_error* error);
/* A copy as a PEFT folder; `dir` is made, or must hold no adapter. `name` NULL: the kept one. */
TG_API int32_t tg_site_save_adapter(tg_site* site, const char* name, const char* dir,
                                    const tg_call* call, tg_error* error);

/* ---- the gate -------------------------------------------------------------------------------- */
/* Updates that policy holds for the site's people, by name. */
typedef int32_t (*tg_name_fn)(const char* name, void* user);
TG_API int32_t tg_site_list_held(tg_site* site, const tg_call* call, tg_name_fn each, void* user,
                                 tg_error* error);
/* What would cross, as JSON: tensors, norms, sizes, bytes. docs/formats/policy.md. */
TG_API int32_t tg_site_review(tg_site* site, const char* name, const tg_call* call, tg_text** out,
                              tg_error* error);
enum { TG_RELEASE = 1, TG_REFUSE = 2 };
/* Said by the user that the kernel names, and written into the ledger so; it counts where policy
 * has an approver "uid:NUMBER" for that user, else TG_PERMISSION_DENIED. `reason`: at most 199
 * printable ASCII characters, NULL for none. Of the bytes that tg_site_review showed last by this
 * handle, or of those of now. */
TG_API int32_t tg_site_decide(tg_site* site, const char* name, int32_t decision, const char* reason,
                              const tg_call* call, tg_error* error);

/* The ledger: every leaf as JSON; a copy of the file; the verification (docs/formats/ledger.md),
 * against the newest receipt where there is one; a folder for a regulator. `key`: the
 * coordinator's, "ed25519:...". These run `tidegate ledger`. */
TG_API int32_t tg_site_ledger(tg_site* site, const tg_call* call, tg_text** out, tg_error* error);
TG_API int32_t tg_site_save_ledger(tg_site* site, const char* file, const tg_call* call,
                                   tg_error* error);
TG_API int32_t tg_site_verify_ledger(tg_site* site, const char* key, const tg_call* call,
                                     tg_text** out, tg_error* error);
TG_API int32_t tg_site_export_ledger(tg_site* site, const char* key, const char* dir,
                                     const tg_call* call, tg_text** out, tg_error* error);

/* ---- rounds that are trained elsewhere ------------------------------------------------------- */
/* The site's own trainer stops meanwhile. What comes back is encoded as its own would be, and
 * judged by the same rules, budget and approvals, into the same ledger. One program at a time. */
typedef struct tg_rounds tg_rounds;
TG_API int32_t tg_rounds_open(tg_site* site, const tg_call* call, tg_rounds** out, tg_error* error);
typedef struct tg_round {
  uint32_t struct_size;
  uint32_t round;
  uint32_t adapter_version;
  uint32_t local_steps; /* what the job asks of its sites */
  double norm_clip;     /* of the delta; a larger one is scaled down */
  char job[40];
} tg_round;
/* The next round to be trained; its adapter is written into `dir` as a PEFT folder, in the place of
 * one that is there. */
TG_API int32_t tg_rounds_next(tg_rounds* rounds, const char* dir, const tg_call* call,
                              tg_round* out, tg_error* error);
typedef struct tg_trained {
  uint32_t struct_size;
  uint32_t weight;   /* targets that were trained on; 0: as little as there is */
  double train_loss; /* 0: not said; policy says which may leave */
  double heldout_loss;
} tg_trained;
/* The adapter in `dir`, of the shape of the one that was given. Returns when it is handed over:
 * tg_rounds_result has the verdict. */
TG_API int32_t tg_rounds_submit(tg_rounds* rounds, const char* dir, const tg_trained* trained,
                                const tg_call* call, tg_error* error);
enum { TG_RESULT_RELEASED = 1, TG_RESULT_REFUSED = 2, TG_RESULT_ABANDONED = 3 };
typedef struct tg_round_result {
  uint32_t struct_size;
  uint32_t round;
  uint32_t outcome; /* TG_RESULT_... */
  uint32_t reserved;
  char reason[512]; /* of a refusal: rule, value, limit */
} tg_round_result;
/* An error that says what is wrong with the adapter leaves the round open: submit again. An update
 * that is held has its result when people have decided; TG_DEADLINE_EXCEEDED until then. */
TG_API int32_t tg_rounds_result(tg_rounds* rounds, const tg_call* call, tg_round_result* out,
                                tg_error* error);
TG_API void tg_rounds_close(tg_rounds* rounds);

/* ---- a coordinator on this machine ----------------------------------------------------------- */
typedef struct tg_coordinator tg_coordinator;
/* `dir`: its folder; it must run when it is asked. */
TG_API int32_t tg_coordinator_open(const char* dir, tg_coordinator** out, tg_error* error);
TG_API void tg_coordinator_close(tg_coordinator* coordinator);
typedef struct tg_coordinator_job {
  uint32_t struct_size;
  uint32_t version; /* of the adapter */
  char id[40];
  char name[64];
  char state[32];
  uint32_t rounds;
  uint32_t ended;
  int64_t open_round; /* -1: none */
  uint32_t accepted;  /* updates of the open round */
  uint32_t sites;
  uint64_t parameters;
} tg_coordinator_job;
typedef int32_t (*tg_coordinator_job_fn)(const tg_coordinator_job* job, void* user);
TG_API int32_t tg_coordinator_list_jobs(tg_coordinator* coordinator, const tg_call* call,
                                        tg_coordinator_job_fn each, void* user, tg_error* error);
/* `job`: an id, the beginning of one, or a name. */
TG_API int32_t tg_coordinator_get_job(tg_coordinator* coordinator, const char* job,
                                      const tg_call* call, tg_coordinator_job* out,
                                      tg_error* error);
/* A job file (docs/formats/job.md). Hashes the base: a deadline of minutes for a large one. */
TG_API int32_t tg_coordinator_submit(tg_coordinator* coordinator, const char* job_file,
                                     const tg_call* call, tg_coordinator_job* out, tg_error* error);
TG_API int32_t tg_coordinator_stop_job(tg_coordinator* coordinator, const char* job,
                                       const tg_call* call, tg_error* error);
/* `version` below 0: the newest. */
TG_API int32_t tg_coordinator_export(tg_coordinator* coordinator, const char* job, int64_t version,
                                     const char* dir, const tg_call* call, tg_error* error);
typedef struct tg_coordinator_site {
  uint32_t struct_size;
  uint32_t connected;
  char name[64];
  char key[64];
  uint64_t bytes_in;
  uint64_t refused;
} tg_coordinator_site;
typedef int32_t (*tg_coordinator_site_fn)(const tg_coordinator_site* site, void* user);
TG_API int32_t tg_coordinator_list_sites(tg_coordinator* coordinator, const tg_call* call,
                                         tg_coordinator_site_fn each, void* user, tg_error* error);
/* What happened to a job's rounds, from its log. */
typedef struct tg_round_event {
  uint32_t struct_size;
  uint32_t round; /* 0: of none; of "published" it is the version */
  int64_t number;
  char event[32]; /* "opened", "accepted", "published", "abandoned", ... */
  char site[64];
  char time[32];
  uint32_t weight;
  uint32_t reserved;
} tg_round_event;
typedef int32_t (*tg_round_event_fn)(const tg_round_event* event, void* user);
/* Those with a number above `after`; all there are now. */
TG_API int32_t tg_coordinator_list_rounds(tg_coordinator* coordinator, const char* job,
                                          int64_t after, const tg_call* call,
                                          tg_round_event_fn each, void* user, tg_error* error);

/* A version of a base that the coordinator publishes. */
typedef struct tg_coordinator_base {
  uint32_t struct_size;
  uint32_t version;
  char name[64];
  char hash[72];     /* of the base, in hex: what a job names */
  char manifest[72]; /* the digest of what was signed, in hex */
  uint64_t bytes;
  uint64_t patch_bytes; /* from the version before; 0: there is no patch */
  char licence[256];
  char created[32];
  char expires[32];
  uint32_t revoked;
  uint32_t reserved;
} tg_coordinator_base;
typedef int32_t (*tg_coordinator_base_fn)(const tg_coordinator_base* base, void* user);
TG_API int32_t tg_coordinator_list_bases(tg_coordinator* coordinator, const tg_call* call,
                                         tg_coordinator_base_fn each, void* user, tg_error* error);

/* ---- a model that answers -------------------------------------------------------------------- */
/* A base and its adapters, held by a walled process of the calling user that this library starts
 * (tidegate-trainer answer, docs/formats/answers.md): it has no network and reads no file but the
 * model's. Any number of answers at once, each by a handle of its own; they advance together. */
typedef struct tg_model tg_model;
typedef struct tg_model_options {
  uint32_t struct_size;
  int32_t threads;             /* 0: all CPUs of this process */
  const char* base;            /* an HF folder */
  const char* name;            /* what the base is called; NULL: its folder's name */
  const char* const* adapters; /* PEFT folders, "NAME=FOLDER" or "FOLDER": a model each */
  size_t adapter_count;
  const char* dtype;      /* "auto", "bf16", "f32"; NULL: auto */
  uint32_t load_in_bits;  /* 8: int8, 4: NF4, 0: as dtype says */
  int32_t max_new_tokens; /* of an answer whose question does not say; 0: the program's default */
  const char* walls;      /* those that must stand, "none" for none of them; NULL: all */
  const char* trainer;    /* the program; NULL: where `tidegate` is looked for */
  const char* device;     /* "cpu", "cuda"; NULL: cpu */
} tg_model_options;
/* Returns when it is loaded: give a large one minutes. The process' own error is the call's. */
TG_API int32_t tg_model_open(const tg_model_options* options, const tg_call* call, tg_model** out,
                             tg_error* error);
/* What may be asked: the base first, then the adapters as they were given. */
TG_API int32_t tg_model_list(tg_model* model, tg_name_fn each, void* user, tg_error* error);
/* Ends the process, without waiting for answers: those say TG_UNAVAILABLE. */
TG_API void tg_model_close(tg_model* model);

typedef struct tg_message {
  const char* role; /* "system", "user", "assistant" */
  const char* content;
} tg_message;
typedef struct tg_question {
  uint32_t struct_size;
  int32_t max_new_tokens;     /* 0: as the model was opened with */
  const char* model;          /* of tg_model_list; NULL: the base */
  const tg_message* messages; /* a chat, through the base's template */
  size_t message_count;
  const char* text;          /* without messages: what is continued as it is */
  double temperature;        /* 0: the likeliest token */
  double top_p;              /* 0: all, as 1 */
  double repetition_penalty; /* 0: none, as 1 */
  int64_t top_k;             /* 0: all */
  uint64_t seed;
  const char* const* stop; /* texts that end the answer and are not part of it: 16 of 256 bytes */
  size_t stop_count;
} tg_question;
typedef struct tg_answer tg_answer;
/* Hands the question over, which the process takes at once while it is well (a minute at most); the
 * answer comes by tg_answer_next. Where the model's process has ended:
 * TG_UNAVAILABLE, and the model is to be closed and opened again. */
TG_API int32_t tg_model_ask(tg_model* model, const tg_question* question, tg_answer** out,
                            tg_error* error);
enum {
  TG_ANSWER_TEXT = 1, /* more of the answer, whole characters: `text` */
  TG_ANSWER_END = 2   /* `text`: why, one of stop, length, positions, cancelled; the counts */
};
typedef struct tg_answer_event {
  uint32_t struct_size;
  uint32_t kind;    /* TG_ANSWER_... */
  const char* text; /* until the next call of the answer */
  size_t text_size;
  int64_t prompt_tokens;
  int64_t cached_tokens; /* of the prompt, that an earlier answer had computed */
  int64_t new_tokens;
} tg_answer_event;
/* An error of the answer is the call's; after it or the end: TG_FAILED_PRECONDITION. After a
 * deadline or a cancelled call the answer goes on: ask for the next again. */
TG_API int32_t tg_answer_next(tg_answer* answer, const tg_call* call, tg_answer_event* out,
                              tg_error* error);
typedef int32_t (*tg_answer_fn)(const tg_answer_event* event, void* user);
/* To its end, which `each` hears too. */
TG_API int32_t tg_answer_run(tg_answer* answer, const tg_call* call, tg_answer_fn each, void* user,
                             tg_error* error);
/* Takes the question back: the end comes by next, "cancelled". May be called while another thread
 * waits in tg_answer_next. */
TG_API int32_t tg_answer_cancel(tg_answer* answer, tg_error* error);
/* Takes the question back when it is not over; before or after its model is closed. */
TG_API void tg_answer_close(tg_answer* answer);

/* ---- the command line ------------------------------------------------------------------------ */
/* `tidegate` with these words and --format json: its answer. It is the one in $TIDEGATE_PROGRAMS,
 * beside this library (../bin), or in the PATH, in this order. */
TG_API int32_t tg_run_tidegate(const char* const* words, size_t count, const tg_call* call,
                               tg_text** out, tg_error* error);

#ifdef __cplusplus
}
#endif

#endif /* TIDEGATE_TIDEGATE_H_ */
