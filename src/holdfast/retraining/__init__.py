"""Reports and the clock become a RetrainOrder, or a reason why not."""
