"""Commands that are run by hand: look at images, take them away, bring others, repeat the pipeline."""
