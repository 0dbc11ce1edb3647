"""What recurrent cells remember: gradients over time, gates, the copy task, time per step."""
