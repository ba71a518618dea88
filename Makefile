# The targets: run, dev, new, test, test-all, check, bench, soak, fuzz, pictures and assets.

ADDR ?= localhost:8080

NPM := npm
VENDOR := static/vendor
NPM_FILES := @livetemplate/client/dist/livetemplate-client.browser.js @picocss/pico/css/pico.min.css

.PHONY: run dev new test test-all check bench soak fuzz pictures assets prepare test-tools test-all-tools

run: prepare
	@go build -o bin/realtime .
	@exec bin/realtime -addr $(ADDR) -data bin/counts-$(subst /,-,$(ADDR))

# Builds the program again whenever one of its files is saved; then open pages become new.
dev: prepare
	@go build -o bin/dev ./internal/dev
	@exec bin/dev -addr $(ADDR)

# Without the browser files, pages load them from the public CDN.
prepare:
	@test -e bin/realtime || echo "The first build takes a minute."
	@$(MAKE) assets NPM="npm --fetch-retries=0 --fetch-timeout=20000" >/dev/null 2>&1 || \
		echo "npm did not fetch the browser files (make assets says why): going on as go run . does"

# A program of your own: make new MODULE=example.com/poll DIR=../poll
new:
	@go build -o bin/new ./internal/starter/new
	@bin/new "$(MODULE)" "$(DIR)"

# make check runs vet.
GO_TEST := go test -race -shuffle=on -vet=off

# Everything that a change is likely to break, in 3 minutes. Most parallel tests wait for a
# browser.
test: assets test-tools
	node --test --test-reporter=./e2e/scripts/quiet.mjs e2e/scripts/*.test.mjs
	$(GO_TEST) -parallel 6 -timeout 30m ./e2e ./...

# The rest: other browsers, proxies, storms, and each page in each state.
test-all: assets test-all-tools
	$(GO_TEST) -parallel 4 -timeout 60m -tags all ./e2e/all

check: assets
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-clean: $$unformatted"; exit 1; }
	go vet -tags all,soak,pictures,bench ./...
	go tool staticcheck -tags all,soak,pictures,bench ./...

bench: assets test-tools
	go test -tags bench -run '^$$' -bench . -benchtime 1x -timeout 30m ./e2e/bench

soak: assets test-all-tools
	go test -race -count=1 -tags soak -run Soak -timeout 90m -v ./e2e/all

fuzz: assets
	go test -run '^$$' -fuzz FuzzName -fuzztime 1m ./internal/presence
	go test -run '^$$' -fuzz FuzzFrames -fuzztime 1m ./e2e

pictures: assets test-tools
	go test -count=1 -tags pictures -v ./e2e/pictures

assets: $(VENDOR)/.fetched

$(VENDOR)/.fetched: static/package.json static/package-lock.json Makefile
	@cd static && $(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@rm -f $(VENDOR)/*
	@cp $(addprefix static/node_modules/,$(NPM_FILES)) $(VENDOR)
	@touch $@

# What the tests need besides Go, as command:package. Alternative commands are separated by
# slashes, and several packages by plus signs. As root on Debian they are installed;
# elsewhere the tests say what is missing.
TEST_TOOLS := gcc:gcc+libc6-dev redis-server:redis-server \
	chromium-headless-shell/chrome-headless-shell:chromium-headless-shell
TEST_ALL_TOOLS := chromium/chromium-browser/google-chrome:chromium firefox-esr/firefox:firefox-esr WebKitWebDriver:webkit2gtk-driver Xvfb:xvfb \
	nginx:nginx-light caddy:caddy haproxy:haproxy

test-all-tools: TEST_TOOLS += $(TEST_ALL_TOOLS)
test-all-tools test-tools:
	@PATH="$$PATH:/usr/sbin"; missing=; for tool in $(TEST_TOOLS); do \
		found=; for name in $$(echo "$${tool%:*}" | tr / ' '); do command -v "$$name" >/dev/null && found=yes; done; \
		test -n "$$found" || missing="$$missing $$(echo "$${tool#*:}" | tr + ' ')"; \
	done; \
	if test -z "$$missing"; then exit; fi; \
	if command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing; \
	else false; fi || echo "not installed:$$missing (only done as root on Debian)"
