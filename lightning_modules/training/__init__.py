"""What any training needs: resume points, checkpoints, the inner trainer, progress, throughput."""
