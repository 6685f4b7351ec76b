"""The synchronous channel: grpc.Channel over balanced subchannels."""
