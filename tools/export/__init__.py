"""Export of training sets for other code: layouts, data card, archive, signatures."""
