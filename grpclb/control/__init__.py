"""The channel's engine: resolver, config, policy, picker. Lives on one asyncio loop."""
