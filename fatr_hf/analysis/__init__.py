"""What happens inside vision transformers, reduced or not: measures, comparisons, pictures, schedules, theory."""
