// A control plane for the tests, on go-control-plane: its cache, its server, its encoder.
//
// Each line of standard input is a snapshot: {"node": "id", "version": "1", "resources": [...]},
// with resources in protobuf's JSON, each with its "@type". Each line of standard output is an
// event: {"port": 1234} first, {"set": true} or {"error": "..."} for a snapshot, and {"request": {...}} for
// each request of a client. It ends with its input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"

	// What snapshots may hold.
	_ "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
)

type snapshot struct {
	Node      string            `json:"node"`
	Version   string            `json:"version"`
	Resources []json.RawMessage `json:"resources"`
}

var output sync.Mutex

func say(event map[string]any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(event); err != nil {
		log.Fatal(err)
	}
}

func heard(_ int64, request *discovery.DiscoveryRequest) error {
	say(map[string]any{"request": map[string]any{
		"node":    request.GetNode().GetId(),
		"agent":   request.GetNode().GetUserAgentName(),
		"type":    request.GetTypeUrl(),
		"names":   request.GetResourceNames(),
		"version": request.GetVersionInfo(),
		"nonce":   request.GetResponseNonce(),
		"error":   request.GetErrorDetail().GetMessage(),
	}})
	return nil
}

func set(snapshots cache.SnapshotCache, line []byte) error {
	var wanted snapshot
	if err := json.Unmarshal(line, &wanted); err != nil {
		return err
	}
	resources := map[resource.Type][]types.Resource{}
	for _, raw := range wanted.Resources {
		var packed anypb.Any
		if err := protojson.Unmarshal(raw, &packed); err != nil {
			return err
		}
		message, err := packed.UnmarshalNew()
		if err != nil {
			return err
		}
		resources[packed.GetTypeUrl()] = append(resources[packed.GetTypeUrl()], message)
	}
	made, err := cache.NewSnapshot(wanted.Version, resources)
	if err != nil {
		return err
	}
	return snapshots.SetSnapshot(context.Background(), wanted.Node, made)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	snapshots := cache.NewSnapshotCache(true, cache.IDHash{}, nil)
	served := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(served,
		server.NewServer(context.Background(), snapshots, server.CallbackFuncs{StreamRequestFunc: heard}))
	go func() {
		if err := served.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
	say(map[string]any{"port": listener.Addr().(*net.TCPAddr).Port})
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if err := set(snapshots, lines.Bytes()); err != nil {
			say(map[string]any{"error": err.Error()})
			continue
		}
		say(map[string]any{"set": true})
	}
}
