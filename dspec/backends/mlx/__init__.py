"""The MLX room: targets of mlx-lm, drafters, training and decoding on Apple silicon."""
