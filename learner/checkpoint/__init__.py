"""What a checkpoint is, and how it is saved, committed, resumed from and rolled back to."""
