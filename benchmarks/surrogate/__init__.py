"""Time of training and explaining with the surrogate, against plain StyleGAN2 and StylEx."""
