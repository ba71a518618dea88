# The interface of this repository: run, test, check, bench, soak, fuzz, pictures; assets on its own.

ADDR ?= localhost:8080

VENDOR := static/vendor
NPM_FILES := @livetemplate/client/dist/livetemplate-client.browser.js @picocss/pico/css/pico.min.css

.PHONY: run test check bench soak fuzz pictures assets test-tools

run: assets
	@go build -o bin/realtime .
	@exec bin/realtime -addr $(ADDR)

# Most of what runs in parallel waits for a browser. make check does the vetting.
test: assets test-tools
	go test -race -shuffle=on -parallel 6 -vet=off -timeout 30m ./...

check: assets
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-clean: $$unformatted"; exit 1; }
	go vet -tags soak,pictures ./...
	go tool staticcheck -tags soak,pictures ./...

bench: assets test-tools
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./e2e

soak: assets test-tools
	go test -race -count=1 -tags soak -run Soak -timeout 90m -v ./e2e

fuzz: assets
	go test -run '^$$' -fuzz FuzzName -fuzztime 1m ./internal/presence
	go test -run '^$$' -fuzz FuzzFrames -fuzztime 1m ./e2e

pictures: assets test-tools
	go test -count=1 -tags pictures -run Pictures -v ./e2e

assets: $(VENDOR)/.fetched

$(VENDOR)/.fetched: static/package.json static/package-lock.json Makefile
	@cd static && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@rm -f $(VENDOR)/*
	@cp $(addprefix static/node_modules/,$(NPM_FILES)) $(VENDOR)
	@touch $@

# What the tests need beside Go, each as command:package, or as the commands that will
# do and the packages that are needed. As root on Debian they are installed; elsewhere
# the tests say what they miss.
TEST_TOOLS := gcc:gcc+libc6-dev redis-server:redis-server \
	chromium/chromium-browser/google-chrome:chromium \
	chromium-headless-shell/chrome-headless-shell:chromium-headless-shell \
	firefox-esr/firefox:firefox-esr \
	WebKitWebDriver:webkit2gtk-driver Xvfb:xvfb \
	nginx:nginx-light caddy:caddy haproxy:haproxy

test-tools:
	@PATH="$$PATH:/usr/sbin"; missing=; for tool in $(TEST_TOOLS); do \
		found=; for name in $$(echo "$${tool%:*}" | tr / ' '); do command -v "$$name" >/dev/null && found=yes; done; \
		test -n "$$found" || missing="$$missing $$(echo "$${tool#*:}" | tr + ' ')"; \
	done; \
	if test -z "$$missing"; then exit; fi; \
	if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
	else false; fi || echo "not installed:$$missing (make test installs it as root on Debian)"
