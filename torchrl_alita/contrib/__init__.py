"""ALITA inside other libraries: BenchMARL, and TorchRL's Trainer."""
