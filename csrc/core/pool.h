// The library's own threads: no OpenMP. Started at first use, never at import; a forked child starts its own; parked
// after a bounded spin; leaked at exit. One job runs at a time: a second caller, or a task that calls again, runs its
// work on its own thread, with the same bits (docs/design.md, 4).
#pragma once

namespace innerloop::pool {

int threads();            // that a job may use, the caller's among them
void set_threads(int n);  // n >= 1; takes effect with the next job

// While it lives, jobs of the thread that made it may use at most n threads.
class Limit {
 public:
  explicit Limit(int n);
  ~Limit();
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  const int outer;
};

int default_threads();  // INNERLOOP_NUM_THREADS, OMP_NUM_THREADS, or the cores that affinity and cgroups leave

// Runs task(argument, 0) .. task(argument, tasks - 1) and returns when all are done. Tasks do not throw.
void run(int tasks, void (*task)(void* argument, int index), void* argument);

}  // namespace innerloop::pool
