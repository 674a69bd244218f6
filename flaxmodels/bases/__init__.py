"""What models of one kind share: skeletons that architectures fill with parts."""
