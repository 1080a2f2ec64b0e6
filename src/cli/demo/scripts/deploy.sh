# deploy: checks a commit out of the repository, builds its assets, switches `current` to it in one rename.
# Rerun is safe: what is built stays built, what is unpacked is unpacked anew, the switch is one rename.
ledger begin deploy
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 HOME="$DEMO"
ref=$(metadata git_ref)
stack=$(printf '%s\n' "$action" | sed -n 's/.*"resource_id" *: *\([0-9]*\).*/\1/p')
app=$DEMO/stacks/$stack
mkdir -p "$app/releases" "$app/built"

progress 5 "fetching $ref"
test -d "$app/repo.git" || git init --quiet --bare "$app/repo.git"
git -C "$app/repo.git" fetch --quiet --no-tags -- "$DEMO/origin" "+$ref:refs/heads/deploy-$ACTIOND_ID"
sha=$(git -C "$app/repo.git" rev-parse --verify "refs/heads/deploy-$ACTIOND_ID^{commit}")
echo "commit $sha"

progress 10 "unpacking"
part=$app/releases/$sha.part
rm -rf "$part"
mkdir "$part"
git -C "$app/repo.git" archive "$sha" | tar -x -f - -C "$part"

# Assets take their time, as they do.
total=$(ls "$part/assets" | wc -l)
count=0
for asset in "$part"/assets/*; do
    name=$(basename "$asset")
    digest=$(git hash-object --no-filters "$asset")
    count=$((count + 1))
    if test ! -e "$app/built/$digest"; then
        sleep "$ASSET_SECONDS"
        gzip -9 -n -c "$asset" >"$app/built/$digest.$ACTIOND_ID.$ACTIOND_ATTEMPT"
        mv "$app/built/$digest.$ACTIOND_ID.$ACTIOND_ATTEMPT" "$app/built/$digest"
        echo "built $name"
    fi
    cp "$app/built/$digest" "$asset.gz"
    progress $((10 + 80 * count / total)) "asset $count of $total"
done

progress 95 "switching"
# A release that is there is whole, and may be the one that is live: it stays.
if test -e "$app/releases/$sha"; then rm -rf "$part"; else mv "$part" "$app/releases/$sha"; fi
ln -s "releases/$sha" "$app/.current.$ACTIOND_ID.$ACTIOND_ATTEMPT"
mv -T "$app/.current.$ACTIOND_ID.$ACTIOND_ATTEMPT" "$app/current"
already || ledger end deploy
result "{\"git_ref\": \"$ref\", \"git_hash\": \"$sha\", \"servers_deployed\": 1}"
message "deployed $ref"
