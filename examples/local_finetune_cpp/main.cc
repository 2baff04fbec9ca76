// Fine-tunes an adapter on records of this machine, behind walls, and shows its progress.
//
// usage: local_finetune BASE RECORDS OUT
#include <tidegate/job.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: local_finetune BASE RECORDS OUT\n");
    return 64;
  }
  // What `tidegate finetune --config` reads.
  tg::JobSpec spec;
  spec.flags = std::string("base = \"") + argv[1] + "\"\ndata = \"" + argv[2] +
               "\"\noutput_dir = \"" + argv[3] +
               "\"\nmax_steps = 8\nlogging_steps = 2\nlearning_rate = 2e-3\nmax_length = 256\n"
               "per_device_train_batch_size = 4\n";
  const auto job = tg::StartFinetune(spec);
  if (!job) {
    std::fprintf(stderr, "%s\n", job.status().ToString().c_str());
    return 1;
  }
  const auto no_deadline = tg::Call(std::chrono::milliseconds(-1));
  const auto result = job->Run(no_deadline, [](const tg::JobEvent& event) {
    if (event.kind == TG_JOB_STEP) {
      std::printf("step %lld of %lld: loss %.4f\n", static_cast<long long>(event.step),
                  static_cast<long long>(event.total_steps), event.loss);
    }
    return true;
  });
  if (!result) {
    std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
    return 1;
  }
  std::printf("the adapter is in %s\n", argv[3]);
  return 0;
}
